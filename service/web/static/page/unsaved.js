/** Keeps what is not stored yet when a person leaves the page: links wait for it; otherwise the browser asks. */

/**
 * @param {() => boolean} isUnsaved whether something is not stored yet
 * @param {() => Promise<unknown>} save stores it, before a link is followed
 */
export function keepUnsaved(isUnsaved, save) {
  addEventListener("beforeunload", (event) => isUnsaved() && event.preventDefault());
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || !leavesPage(event, link) || !isUnsaved()) return;
    event.preventDefault();
    save().then(() => location.assign(link.href)); // asks if something is still unsaved
  });
}

/** Whether a click on a link replaces this page, and does not open another tab or jump within it. */
function leavesPage({ button, altKey, ctrlKey, metaKey, shiftKey }, { target, href }) {
  const isPlain = button === 0 && !altKey && !ctrlKey && !metaKey && !shiftKey;
  return isPlain && target !== "_blank" && href.split("#")[0] !== location.href.split("#")[0];
}
