/** The browser session for the modules of pages: who signed in, signing in again, signing out. */

const ROOT = new URL("../../", import.meta.url);
const CHANNEL = "marrowlens-session";

/** The document of `GET /session`: `person`, `csrf_token`, `methods`. */
export async function readSession() {
  const answer = await fetch(new URL("session", ROOT), { cache: "no-store" });
  return answer.json();
}

/**
 * Let the person sign in in another window, so that this page loses nothing; the session afterwards.
 *
 * Call it from a click: browsers block other windows. Then repeat the refused request with the new `csrf_token`.
 *
 * @param {{again?: boolean}} options `again`: authenticate again, to sign a report.
 */
export function signInAgain({ again = false } = {}) {
  const address = new URL("sign-in", ROOT);
  address.search = new URLSearchParams({ next: "/sign-in/done", again: String(again) });
  const channel = new BroadcastChannel(CHANNEL);
  const signedIn = new Promise((resolve) => channel.addEventListener("message", resolve, { once: true }));
  window.open(address, "_blank", "popup,width=520,height=680");
  return signedIn.finally(() => channel.close()).then(readSession);
}

/** Tell the other pages of this browser that the session is new. */
export function announceSession() {
  new BroadcastChannel(CHANNEL).postMessage("signed-in");
}

/** End the session here, and at the issuer if it offers that. */
export async function signOut() {
  const { csrf_token: token } = await readSession();
  const headers = token ? { "X-CSRF-Token": token } : {};
  const answer = await fetch(new URL("sign-out", ROOT), { method: "POST", headers });
  const { issuer_sign_out: atIssuer } = answer.ok ? await answer.json() : {};
  location.assign(atIssuer ?? ROOT);
}
