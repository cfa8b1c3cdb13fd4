/** The model's answer about one cell in words: decision, reasons, novelty. */

import { element } from "./element.js";
import { className, list, percent, precisePercent, text, textOr } from "./texts.js";

export const DECISIONS = ["accept", "review", "reject"];

/** A text of a model's manifest in the page's language, where the catalogue has it by its English words; else English. */
export const manifestText = (written) => textOr(`manifest.${written}`, null) ?? element("span", { lang: "en" }, written);

/** The suggested class with its code: "Promyelocyte (PMO)". */
export const suggested = ({ prediction }) => `${className(prediction.code, prediction.name)} (${prediction.code})`;

export const decisionWords = (decision) => text(`decision.${decision ?? "none"}`);

/** Whether the cell is like the cells of the training; null if the model has no trust reference. */
export function noveltyWords({ novelty, reasons }) {
  if (!novelty) return isNovel(reasons) ? text("novelty.novel.stored") : null;
  if (!isNovel(reasons)) return text("novelty.usual");
  return text("novelty.novel", { share: shareBelow(novelty.p_value) });
}

export const isNovel = (reasons) => (reasons ?? []).some((reason) => reason.code === "novel");

/** The reasons of review or rejection, without novelty, which has its own words. */
export const reasonWords = (result) =>
  (result.reasons ?? []).filter(({ code }) => code !== "novel").map((reason) => reasonText(reason, result));

function reasonText({ code, detail }, { prediction }) {
  const others = (prediction.set ?? []).slice(1);
  const values = {
    class: className(prediction.code, prediction.name),
    others: list(others.map((each) => className(each))),
    probability: percent(prediction.probability),
  };
  const key = code === "uncertain" ? `reason.uncertain.${others.length ? "set" : "low"}` : `reason.${code}`;
  return textOr(key, null) ? text(key, values) : detail;
}

/** The share of known cells that are less unusual, rounded down: never "100 %". */
const shareBelow = (p) => precisePercent(Math.min(0.999, 1 - p));
