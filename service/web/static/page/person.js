/**
 * The person who acts. With sign-in the session is the person, and the server writes the name into the header.
 * Without authentication a name is asked once; the server records it as unverified.
 */

import { byId } from "./element.js";

const STORED = "acting-user";

export const person = {
  isUnverified: document.documentElement.dataset.authentication === "off",
  name: localStorage.getItem(STORED) ?? "",
};

/** The name of the person. Without one a dialog asks for it; null if it is closed without a name. */
export async function requirePerson() {
  if (!person.isUnverified || person.name) return person.name;
  return askName();
}

/** Let the person enter a name; null if the dialog is closed without one. */
export function askName() {
  const dialog = byId("person-dialog");
  const field = byId("person-name");
  field.value = person.name;
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(closedWith(dialog, field)), { once: true });
    dialog.returnValue = "";
    dialog.showModal();
    field.select();
  });
}

function closedWith(dialog, field) {
  const name = field.value.trim();
  if (dialog.returnValue !== "save" || !name) return null;
  person.name = name;
  localStorage.setItem(STORED, name);
  show();
  return name;
}

function show() {
  const shown = byId("person-shown");
  if (shown) shown.textContent = person.name || shown.dataset.none;
}

byId("person-button")?.addEventListener("click", askName);
show();
