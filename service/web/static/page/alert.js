/** The line at the top of a page that says what went wrong. */

import { Problem } from "./api.js";
import { byId } from "./element.js";

export function showAlert(message) {
  byId("alert").textContent = message;
  byId("alert").hidden = false;
}

export const hideAlert = () => (byId("alert").hidden = true);

/** The action, of which a second call during the first one, as by a double click, is the first one. */
export const oneAtATime = (action) => {
  let running = null;
  return (...values) => (running ??= action(...values).finally(() => (running = null)));
};

/** The action, with a problem of the API shown instead of thrown. Its result is then undefined. */
export const alerting =
  (action) =>
  async (...values) => {
    try {
      hideAlert();
      return await action(...values);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      showAlert(error.message);
    }
  };
