// node-hl7-client's own client: sends every message of a JSON list, each once the one before is answered.
//
//   node node-hl7-sender.js PORT FILE
//
// Prints MSA-1 and MSA-2 of each answer, one line each, as node-hl7-client read them.
const fs = require("fs");
const { Client } = require("node-hl7-client");

const [port, file] = process.argv.slice(2);
const messages = JSON.parse(fs.readFileSync(file));
const client = new Client({ host: "127.0.0.1" });

const next = () => (messages.length ? connection.sendMessage(messages.shift()) : connection.close());
const connection = client.createConnection({ port: Number(port) }, async (res) => {
  const ack = res.getMessage();
  console.log(`${ack.get("MSA.1").toString()} ${ack.get("MSA.2").toString()}`);
  await next();
});
connection.on("connect", next);
