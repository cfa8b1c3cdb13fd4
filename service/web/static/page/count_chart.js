/** A differential count as a bar chart with intervals, and as the table beside it. */

import { element, svg } from "./element.js";
import { className, number, oneDigit, precisePercent, text } from "./texts.js";

const [WIDTH, ROW, VALUES, GAP, LETTER] = [380, 26, 52, 8, 7]; // units of the view box; LETTER: width of a letter

/** The chart of all classes that have a cell; the largest share or interval fills the width. */
export function countChart({ classes }) {
  const shown = classes.filter((share) => share.count > 0).sort((one, other) => other.count - one.count);
  const most = Math.max(1, ...shown.map((share) => share.high ?? share.percent));
  const height = Math.max(ROW, shown.length * ROW);
  const start = GAP + LETTER * Math.max(18, ...shown.map(({ code, name }) => className(code, name).length));
  const scale = (WIDTH - start - VALUES) / most;
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${height}`, class: "chart", role: "img", "aria-label": chartWords(shown) },
    shown.map((share, row) => bar(share, row * ROW, start, scale)),
  );
}

function bar({ code, name, percent, low, high, supported }, y, start, scale) {
  const middle = y + ROW / 2;
  const x = (value) => start + value * scale;
  const interval = low !== undefined && [
    svg("line", { class: "chart-interval", x1: x(low), x2: x(high), y1: middle, y2: middle }),
    svg("line", { class: "chart-interval", x1: x(low), x2: x(low), y1: middle - 4, y2: middle + 4 }),
    svg("line", { class: "chart-interval", x1: x(high), x2: x(high), y1: middle - 4, y2: middle + 4 }),
  ];
  return svg(
    "g",
    { class: supported ? "" : "is-unsupported" },
    svg("text", { x: start - GAP, y: middle + 4, "text-anchor": "end" }, className(code, name)),
    svg("rect", { class: "chart-bar", x: start, y: y + 5, width: Math.max(1, percent * scale), height: ROW - 10, rx: 2 }),
    interval,
    svg("text", { class: "chart-value", x: WIDTH, y: middle + 4, "text-anchor": "end" }, precisePercent(percent / 100)),
  );
}

const chartWords = (shown) =>
  `${text("count.chart")}: ` +
  shown.map(({ code, name, percent }) => `${className(code, name)} ${precisePercent(percent / 100)}`).join(", ");

/** The same numbers as a table, with the classes outside the denominator below. */
export function countTable({ classes, excluded, counted }) {
  const heads = ["count.class", "count.cells", "count.percent", "count.interval"].map((key) =>
    element("th", { scope: "col" }, text(key)),
  );
  return element(
    "table",
    { class: "numbers" },
    element("thead", {}, element("tr", {}, heads)),
    element("tbody", {}, classes.filter((share) => share.count).map(row)),
    element("tbody", {}, totalRow(counted), excluded.filter((share) => share.count).map(excludedRow)),
  );
}

function row({ code, name, count, percent, low, high, supported }) {
  const interval = low === undefined ? "–" : `${oneDigit(low)} – ${oneDigit(high)}`;
  return element(
    "tr",
    { class: supported ? null : "is-unsupported" },
    element("th", { scope: "row" }, className(code, name), !supported && ` ${text("class.unsupported.mark")}`),
    element("td", {}, number(count)),
    element("td", {}, percent === undefined ? "–" : oneDigit(percent)),
    element("td", {}, interval),
  );
}

const totalRow = (counted) =>
  element(
    "tr",
    { class: "total" },
    element("th", { scope: "row" }, text("count.total")),
    element("td", {}, number(counted)),
    element("td", { colspan: 2 }),
  );

const excludedRow = ({ code, name, count }) =>
  element(
    "tr",
    { class: "excluded" },
    element("th", { scope: "row" }, className(code, name)),
    element("td", {}, number(count)),
    element("td", { colspan: 2 }, text("count.excluded")),
  );
