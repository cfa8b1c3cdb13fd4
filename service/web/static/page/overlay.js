/** Draws a heatmap as a transparent colour layer. The service has the same two colour tables in its PNG overlays. */

const SEQUENTIAL = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"];
const DIVERGING = ["1c4fa0", "6f9bd8", "f4f4f4", "e08070", "b01c2e"];

/**
 * Draw attention, 0..1, half-transparent everywhere.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} rows
 */
export const drawAttention = (canvas, rows) => draw(canvas, rows, SEQUENTIAL, (value) => [value, 0.7]);

/**
 * Draw evidence. Red speaks for the class, blue against it; neutral regions stay clear.
 *
 * @param {number} reach the value of full red; the same for all classes of a picture, so that they are comparable
 */
export const drawEvidence = (canvas, rows, reach) =>
  draw(canvas, rows, DIVERGING, (value) => {
    const unit = Math.min(1, Math.max(-1, value / (reach || 1)));
    return [(unit + 1) / 2, Math.abs(unit)];
  });

/** The largest absolute value of all evidence maps of a picture. */
export const evidenceReach = (maps) => Math.max(...maps.flatMap((map) => map.values.flat().map(Math.abs)));

export const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);

function draw(canvas, rows, anchors, paint) {
  const [height, width] = [rows.length, rows[0].length];
  const small = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  rows.flat().forEach((value, at) => {
    const [unit, alpha] = paint(value);
    pixels.data.set([...colour(anchors, unit), 255 * alpha], 4 * at);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function colour(anchors, unit) {
  const at = unit * (anchors.length - 1);
  const low = Math.min(Math.floor(at), anchors.length - 2);
  const [one, other] = [rgb(anchors[low]), rgb(anchors[low + 1])];
  return one.map((value, channel) => value + (at - low) * (other[channel] - value));
}

const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
