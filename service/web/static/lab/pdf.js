/** Saves a PDF of the API, in the page's language. */

import { request } from "../page/api.js";
import { save } from "../page/download.js";
import { language } from "../page/texts.js";
import { route } from "./specimen.js";

/** @param {object} [data] sent as JSON by POST; without it the PDF is read by GET */
export async function savePdf(path, name, data) {
  const sent = data && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
  const answer = await request(route(`${path}?language=${language}`), sent);
  save(name, "application/pdf", await answer.blob());
}
