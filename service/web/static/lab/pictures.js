/** Pictures of cells, fetched when they come into view and kept in memory only: the service sends them `no-store`. */

import { Problem, request } from "../page/api.js";
import { route } from "./specimen.js";

const MARGIN = "600px";

const pictures = new Map(); // place → promise of a Blob, or of null
const urls = new Map();
let [found, missing] = [0, 0];

/** The picture of a cell; null if it is not stored. */
export function picture(place) {
  if (!pictures.has(place)) pictures.set(place, load(place));
  return pictures.get(place);
}

async function load(place) {
  if (missing && !found) return null; // this laboratory stores no pictures
  try {
    const blob = await (await request(route(`/cells/${place}/picture`))).blob();
    found += 1;
    return blob;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    missing += error.status === 404;
    if (error.status !== 404) pictures.delete(place); // asked again when it comes into view again
    return null;
  }
}

/** The address of a cell's picture in this page; "" if there is none. */
export async function pictureUrl(place) {
  const blob = await picture(place);
  if (blob && !urls.has(place)) urls.set(place, URL.createObjectURL(blob));
  return urls.get(place) ?? "";
}

/** Whether no picture could be read so far. */
export const hasNone = () => missing > 0 && !found;

const shown = new IntersectionObserver(
  (entries) => entries.filter(({ isIntersecting }) => isIntersecting).forEach(({ target }) => show(target)),
  { rootMargin: MARGIN },
);

/** Show the picture of a cell in an image element once it comes into view. */
export function showInView(image, place) {
  image.dataset.place = place;
  if (urls.has(place)) image.src = urls.get(place);
  else shown.observe(image);
}

async function show(image) {
  shown.unobserve(image);
  const url = await pictureUrl(Number(image.dataset.place));
  if (url) image.src = url;
  else image.remove();
}
