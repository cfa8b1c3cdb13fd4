/** What a person writes beside the cells: megakaryocytes, cellularity, and the draft of the comment with templates. */

import { alerting } from "../page/alert.js";
import { json } from "../page/api.js";
import { byId, element } from "../page/element.js";
import { requirePerson } from "../page/person.js";
import { route } from "./specimen.js";

/** The fields of the specimen, each with how the form shows and reads it; null: nothing is written. */
const FIELDS = {
  megakaryocytes: {
    show: (value) => (byId("megakaryocytes").value = value ?? ""),
    read: () => (byId("megakaryocytes").value === "" ? null : Number(byId("megakaryocytes").value)),
  },
  megakaryocyte_assessment: assessment("megakaryocyte_assessment"),
  cellularity: assessment("cellularity"),
  comment: {
    show: (value) => (byId("comment").value = value ?? ""),
    read: () => byId("comment").value.trim().replaceAll("\r\n", "\n") || null,
  },
};

function assessment(name) {
  const [grade, remark] = [byId(`${name}-grade`), byId(`${name}-remark`)];
  const allow = () => (remark.disabled = grade.value === "");
  grade.addEventListener("change", allow);
  return {
    show: (value) => {
      grade.value = value?.grade ?? "";
      remark.value = value?.remark ?? "";
      allow();
    },
    read: () => {
      const words = remark.value.trim();
      return grade.value === "" ? null : { grade: grade.value, ...(words && { remark: words }) };
    },
  };
}

const shown = {}; // field → its value as the specimen had it, as JSON
const isEdited = (name) => name in shown && JSON.stringify(FIELDS[name].read()) !== shown[name];

/** Show the fields of the specimen, except those that the person has edited and that are not stored yet. */
export function showFindings(specimen) {
  for (const [name, { show, read }] of Object.entries(FIELDS)) {
    const value = specimen[name] ?? null;
    const isStored = JSON.stringify(read()) === JSON.stringify(value);
    if (!isEdited(name)) show(value);
    if (!isEdited(name) || isStored) shown[name] = JSON.stringify(read());
  }
}

/** The fields that the person has edited, with their new values. */
function edited() {
  return Object.fromEntries(Object.keys(FIELDS).filter(isEdited).map((name) => [name, FIELDS[name].read()]));
}

/** Whether the person has written something that is not stored yet, or whose answer is still awaited. */
export const areUnsaved = () => savings > 0 || Object.keys(edited()).length > 0;

let saving = Promise.resolve(true);
let savings = 0; // not answered yet

/**
 * Store what the person has edited, one request after the other.
 *
 * @param {(changes: object) => Promise<boolean>} store
 * @returns {Promise<boolean>} false: something is not stored
 */
export function saveFindings(store) {
  savings += 1;
  saving = saving
    .catch(() => false)
    .then(() => saveOnce(store))
    .finally(() => (savings -= 1));
  return saving;
}

async function saveOnce(store) {
  const changes = edited();
  if (!Object.keys(changes).length) return true;
  if ((await requirePerson()) === null) return false;
  return store(changes);
}

/** Call `save` after each change of a field. */
export function onFindings(save) {
  byId("findings").addEventListener("change", (event) => event.target.id !== "template" && save());
}

const templates = async () => (await json(route("/comment-templates"))).templates;

/**
 * Offer the laboratory's templates.
 *
 * @param {() => Promise<boolean>} save stores the form, so that a template is filled with what it says
 */
export async function offerTemplates(save) {
  const names = (await templates()).map(({ name }) => name);
  byId("templates").hidden = !names.length;
  byId("template").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  byId("template-insert").addEventListener("click", alerting(() => insertTemplate(save)));
}

/** Put the chosen template, filled with the numbers as they are now, where the cursor is. */
async function insertTemplate(save) {
  if (!(await save())) return;
  const found = (await templates()).find(({ name }) => name === byId("template").value);
  if (!found) return;
  const comment = byId("comment");
  const before = comment.value.slice(0, comment.selectionStart);
  const gap = before && !before.endsWith("\n") ? "\n" : "";
  comment.setRangeText(gap + found.text, comment.selectionStart, comment.selectionEnd, "end");
  comment.focus();
  await save();
}
