/** What happens when a request needs another sign-in: the person is asked, and the request is repeated. */

import { byId } from "../page/element.js";
import { text } from "../page/texts.js";
import { signInAgain } from "./session.js";

/** Kinds of problems that another sign-in may solve. */
const REASONS = new Set(["session-expired", "authentication-too-old", "unauthorised"]);
let renewing = null; // one dialog for all requests that are refused meanwhile

/** Whether the person has signed in again after this problem, so that the request can be repeated. */
export async function renewSession(kind) {
  if (!REASONS.has(kind) || !byId("session-dialog")) return false;
  renewing ??= askPerson(kind).finally(() => (renewing = null));
  return renewing;
}

function askPerson(kind) {
  const dialog = byId("session-dialog");
  byId("session-why").textContent = text(`sign-in.why.${kind}`);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(closedWith(dialog, kind)), { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
}

async function closedWith(dialog, kind) {
  if (dialog.returnValue !== "sign-in") return false;
  const session = await signInAgain({ again: kind === "authentication-too-old" });
  keepToken(session.csrf_token);
  return Boolean(session.person);
}

function keepToken(token) {
  let meta = document.querySelector('meta[name="csrf-token"]');
  if (!meta) {
    meta = Object.assign(document.createElement("meta"), { name: "csrf-token" });
    document.head.append(meta);
  }
  meta.content = token ?? "";
}
