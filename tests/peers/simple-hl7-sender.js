// simple-hl7's own client: sends every message of a JSON list, each once the one before is answered, by one connection.
//
//   node simple-hl7-sender.js PORT FILE
//
// Prints MSA-1 and MSA-2 of each answer, one line each, as simple-hl7 read them.
const fs = require("fs");
const hl7 = require("simple-hl7");

const [port, file] = process.argv.slice(2);
const messages = JSON.parse(fs.readFileSync(file));
const client = hl7.Server.createTcpClient({ host: "127.0.0.1", port: Number(port), keepalive: true });

const next = () => {
  if (!messages.length) return client.close();
  client.send(messages.shift(), (err, ack) => {
    if (err) throw err;
    const msa = ack.getSegment("MSA");
    console.log(`${msa.getField(1)} ${msa.getField(2)}`);
    setImmediate(next); // its client marks itself free after this callback
  });
};
next();
