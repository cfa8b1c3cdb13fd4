/** Pictures that a person drops, pastes or chooses: files, whole folders, ZIP files. */

/**
 * Call `take` with the files of every drop, paste and choice.
 *
 * @param {HTMLElement} zone receives drops, and is marked while files are above it
 * @param {HTMLInputElement} input
 * @param {(files: File[]) => void} take
 */
export function listenForFiles(zone, input, take) {
  input.addEventListener("change", () => {
    takeSome([...input.files], take);
    input.value = ""; // so that the same files can be chosen again
  });
  document.addEventListener("paste", (event) => takeSome([...(event.clipboardData?.files ?? [])], take));
  let depth = 0; // of the elements that the pointer has entered
  const mark = (change) => {
    depth = Math.max(0, depth + change);
    zone.classList.toggle("is-target", depth > 0);
  };
  document.addEventListener("dragenter", (event) => holdsFiles(event) && mark(1));
  document.addEventListener("dragleave", (event) => holdsFiles(event) && mark(-1));
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    mark(-depth);
    takeSome(await droppedFiles(event.dataTransfer), take);
  });
}

const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") ?? false;

function takeSome(files, take) {
  if (files.length) take(files);
}

/** The files of a drop in the order of their names, with those of folders below. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const found = await Promise.all(entries.map(filesBelow));
  return found.flat();
}

async function filesBelow(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const files = [];
  for (let some = await readSome(reader); some.length; some = await readSome(reader)) {
    const below = await Promise.all(some.map(filesBelow));
    files.push(...below.flat().filter((file) => !file.name.startsWith(".")));
  }
  return files.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
}

const readSome = (reader) => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
