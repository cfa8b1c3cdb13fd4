/** The line at the top of a page that says what went wrong. */

import { Problem } from "./api.js";
import { byId } from "./element.js";

export function showAlert(message) {
  byId("alert").textContent = message;
  byId("alert").hidden = false;
}

export const hideAlert = () => (byId("alert").hidden = true);

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
