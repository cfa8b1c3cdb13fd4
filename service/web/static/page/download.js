/** Saves a text of the page as a file. Nothing is sent. */

import { element } from "./element.js";

export function save(name, type, content) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Rows as CSV (RFC 4180) with a byte order mark, by which spreadsheets recognise UTF-8. */
export const csv = (rows) => "\ufeff" + rows.map((row) => row.map(field).join(",") + "\r\n").join("");

function field(value) {
  const content = String(value ?? "");
  // A spreadsheet runs a cell that begins so as a formula; file names come from anywhere.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(content) ? `'${content}` : content;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
