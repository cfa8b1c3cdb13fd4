/** Questions of the review: the reason of a change, the confirmation of a class, two readings of one cell. */

import { byId, element } from "../page/element.js";
import { className, text } from "../page/texts.js";
import { pictureUrl } from "./pictures.js";

function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "save"), { once: true }));
}

/** The reason that is set for changes, else one that the person gives now; null if they give none. */
export async function requireReason(what) {
  const select = byId("reason");
  if (select.value) return select.value;
  const [own, list] = [byId("reason-own"), byId("reason-list")];
  const reasons = [...select.options].slice(1).map(({ value }) => value);
  byId("reason-what").textContent = what;
  own.value = "";
  list.replaceChildren(...reasons.map((reason, at) => reasonRow(reason, at)));
  const dialog = byId("reason-dialog");
  dialog.onkeydown = (event) => {
    const chosen = event.target === own ? undefined : reasons[Number(event.key) - 1];
    if (chosen) take(dialog, own, chosen);
  };
  list.onclick = (event) => event.target.closest("button") && take(dialog, own, event.target.closest("button").dataset.reason);
  const isSaved = await ask(dialog);
  const reason = own.value.trim();
  if (!isSaved || !reason) return null;
  if (!reasons.includes(reason)) select.append(element("option", {}, reason));
  select.value = reason;
  return reason;
}

function take(dialog, own, reason) {
  own.value = reason;
  dialog.close("save");
}

const reasonRow = (reason, at) =>
  element("li", {}, element("button", { type: "button", "data-reason": reason, autofocus: at === 0 }, element("kbd", {}, String(at + 1)), reason));

/** Whether the person confirms all unread cells of a class. */
export function askClass(code, count) {
  byId("confirm-title").textContent = text("review.confirm.class.ask", { count, class: className(code) });
  return ask(byId("confirm-dialog"));
}

/**
 * Show two readings of each cell; the person's own readings that shall hold. Neither is chosen beforehand, and the
 * dialogue cannot be left without a choice: a key that was meant for the gallery must not drop a reading.
 */
export async function askMerge(conflicts, cells) {
  const [dialog, list] = [byId("merge-dialog"), byId("merge-list")];
  const own = conflicts.map((each) => onTop(each, cells.byPlace.get(each.place)));
  list.replaceChildren(...conflicts.map((each, at) => mergeRow(each, cells.byPlace.get(each.place), at)));
  // Closed by Esc, it would be open again only a moment later, and the next key would go to the gallery.
  dialog.onkeydown = (event) => {
    if (event.key === "Escape") event.preventDefault();
  };
  while (!(await ask(dialog))); // a gesture for "back" closes it all the same
  const chosen = conflicts.map((_, at) => list.querySelector(`input[name="merge-${at}"]:checked`).value);
  list.replaceChildren();
  return own.filter((_, at) => chosen[at] === "own");
}

/** The person's reading, as of the class that the other person gave: what was a confirmation is a change now. */
const onTop = (own, { version, said }) => ({ ...own, version, from: said, why: own.why ?? text("merge.own.why") });

function mergeRow({ place, code }, cell, at) {
  const image = element("img", { alt: "", width: 96, height: 96 });
  pictureUrl(place).then((url) => (url ? (image.src = url) : image.remove()));
  const choice = (value, words) =>
    element("label", { class: "choice" }, element("input", { type: "radio", name: `merge-${at}`, value, required: true }), words);
  return element(
    "li",
    {},
    image,
    element(
      "fieldset",
      {},
      element("legend", {}, text("review.place", { place })),
      choice("other", text("merge.other", { class: className(cell.said), by: cell.read_by ?? "" })),
      choice("own", text("merge.own", { class: className(code) })),
    ),
  );
}
