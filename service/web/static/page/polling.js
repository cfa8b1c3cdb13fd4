/** Asks again at intervals while the page is seen. */

/**
 * Call `ask` every so many seconds, and at once when the page is shown again. A call that fails is repeated later.
 *
 * @param {(options: {isBackground: true}) => Promise<unknown>} ask called with options for its requests
 * @param {number} seconds
 */
export function poll(ask, seconds) {
  let isAsking = false;
  const askOnce = async () => {
    if (isAsking || document.hidden) return;
    isAsking = true;
    await ask({ isBackground: true }).catch(() => {}); // the next action of the person shows what is wrong
    isAsking = false;
  };
  setInterval(askOnce, 1000 * seconds);
  document.addEventListener("visibilitychange", askOnce);
}
