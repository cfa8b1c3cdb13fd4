/** The dialog that opens a specimen by hand, without an order. */

import { oneAtATime } from "../page/alert.js";
import { json, Problem } from "../page/api.js";
import { byId } from "../page/element.js";

/** The specimen that the person opens; null if the dialog is closed without one. */
export function askSpecimen(number) {
  const [dialog, form] = [byId("open-dialog"), byId("open-form")];
  form.reset();
  form.elements.number.value = number;
  byId("open-alert").hidden = true;
  dialog.showModal();
  form.elements[number ? "identifier" : "number"].focus();
  return new Promise((resolve) => {
    let opened = null;
    const send = oneAtATime(async () => {
      opened = await save(form);
      if (opened) dialog.close();
    });
    form.onsubmit = (event) => {
      event.preventDefault();
      send();
    };
    byId("open-cancel").onclick = () => dialog.close();
    dialog.addEventListener("close", () => resolve(opened), { once: true });
  });
}

async function save(form) {
  try {
    return await json("specimens", { data: request(new FormData(form)) });
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    byId("open-alert").textContent = error.message;
    byId("open-alert").hidden = false;
    return null;
  }
}

function request(fields) {
  const patient = {};
  for (const name of ["identifier", "family", "given", "birth_date", "sex"]) {
    const value = fields.get(name).trim();
    if (value) patient[name] = value;
  }
  const target = Number(fields.get("target_cells"));
  return { number: fields.get("number").trim(), patient, ...(target ? { target_cells: target } : {}) };
}
