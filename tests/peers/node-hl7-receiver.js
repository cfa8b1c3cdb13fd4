// node-hl7-server's own receiver: appends every message to a file, one line each as JSON, and answers as it is told.
//
//   node node-hl7-receiver.js FILE ANSWER [KEY CERT CA]      ANSWER: AA, AE, AR, or "silent"
//
// With three PEM files it speaks TLS and hears only clients whose certificate CA vouches for.
// Says "listening PORT" once it is ready.
const fs = require("fs");
const { Server } = require("node-hl7-server");

const [file, answer, key, cert, ca] = process.argv.slice(2);
const read = (name) => fs.readFileSync(name);
const tls = key ? { key: read(key), cert: read(cert), ca: read(ca), requestCert: true, rejectUnauthorized: true } : undefined;
const server = new Server({ bindAddress: "127.0.0.1", tls });

const inbound = server.createInbound({ port: 0 }, async (req, res) => {
  const message = req.getMessage();
  const kind = message.get("MSH.9.1").toString();
  fs.appendFileSync(file, JSON.stringify({ type: kind, raw: message.toString() }) + "\n");
  if (answer !== "silent") await res.sendResponse(answer);
});

inbound.on("data.error", (err) => fs.appendFileSync(file, JSON.stringify({ error: String(err) }) + "\n"));
inbound.on("listen", () => console.log(`listening ${inbound._socket.address().port}`));
