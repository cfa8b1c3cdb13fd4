/**
 * Reads pictures out of a ZIP, to show them. The service reads the same file itself and decides which members it
 * answers; this module only finds the bytes of a name.
 */

const END = 0x06054b50;
const ENTRY = 0x02014b50;
const END_BYTES = 22;
const LONGEST_COMMENT = 0xffff;
const [STORED, DEFLATED] = [0, 8];

/**
 * Members of a ZIP by name, each with a function that returns its bytes; empty for a file that is no plain ZIP.
 *
 * @param {Blob} file
 * @returns {Promise<Map<string, () => Promise<Blob>>>}
 */
export async function zipMembers(file) {
  const members = new Map();
  const tailAt = Math.max(0, file.size - END_BYTES - LONGEST_COMMENT);
  const tail = await view(file, tailAt, file.size);
  const end = findEnd(tail);
  if (end < 0) return members;
  const count = tail.getUint16(end + 10, true);
  const directoryAt = tail.getUint32(end + 16, true);
  const directory = await view(file, directoryAt, directoryAt + tail.getUint32(end + 12, true));
  for (let at = 0, seen = 0; seen < count && at + 46 <= directory.byteLength; seen += 1) {
    if (directory.getUint32(at, true) !== ENTRY) break;
    const member = entry(directory, at);
    if (!member.name.endsWith("/")) members.set(member.name, () => unpack(file, member));
    at += member.length;
  }
  return members;
}

function findEnd(tail) {
  for (let at = tail.byteLength - END_BYTES; at >= 0; at -= 1) if (tail.getUint32(at, true) === END) return at;
  return -1;
}

function entry(directory, at) {
  const nameLength = directory.getUint16(at + 28, true);
  const name = new Uint8Array(directory.buffer, at + 46, nameLength);
  return {
    method: directory.getUint16(at + 10, true),
    packedBytes: directory.getUint32(at + 20, true),
    localAt: directory.getUint32(at + 42, true),
    name: new TextDecoder().decode(name),
    length: 46 + nameLength + directory.getUint16(at + 30, true) + directory.getUint16(at + 32, true),
  };
}

async function unpack(file, { method, packedBytes, localAt }) {
  const local = await view(file, localAt, localAt + 30);
  const dataAt = localAt + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  const packed = file.slice(dataAt, dataAt + packedBytes);
  if (method === STORED) return packed;
  if (method !== DEFLATED) throw new RangeError(`ZIP method ${method} cannot be shown`);
  return new Response(packed.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
}

const view = async (file, from, to) => new DataView(await file.slice(from, to).arrayBuffer());
