/** Takes cells out of the specimen, such as another patient's pictures. */

import { json } from "../page/api.js";
import { byId } from "../page/element.js";
import { text } from "../page/texts.js";
import { route } from "./specimen.js";

/** Why the cells are removed; "" if the person does not remove them. */
export function askRemoval(count) {
  const dialog = byId("remove-dialog");
  byId("remove-title").textContent = text("review.remove.title", { count });
  byId("remove-reason").value = dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "save" ? byId("remove-reason").value.trim() : ""), { once: true }),
  );
}

/**
 * Remove cells, one request after the other.
 *
 * @param {{place: number, version: number}[]} seen the cells as the person saw them
 * @throws {Problem} another person has read one of them since; it stays.
 */
export async function removeCells(seen, reason, cells) {
  for (const each of seen) await removeCell(each, reason, cells);
}

async function removeCell({ place, version }, reason, cells) {
  try {
    const { revision } = await json(route(`/cells/${place}`), { method: "DELETE", data: { revision: cells.revision, reason } });
    cells.byPlace.delete(place);
    cells.advance(revision);
  } catch (error) {
    if (error.kind !== "stale-revision") throw error;
    const { revision } = await json(route("/revision"));
    await cells.load(revision);
    const cell = cells.byPlace.get(place);
    if (cell && cell.version !== version) throw error;
    if (cell) await removeCell({ place, version }, reason, cells);
  }
}

byId("remove-reasons").addEventListener("click", ({ target }) => {
  const chosen = target.closest("button");
  if (!chosen) return;
  byId("remove-reason").value = chosen.textContent;
  byId("remove-do").focus();
});
