// simple-hl7's own receiver: appends every message to a file, one line each as JSON, and answers as it is told.
//
//   node simple-hl7-receiver.js FILE ANSWER [PORT]      ANSWER: AA, AE, AR, or "silent"
//
// Says "listening PORT" once it is ready.
const fs = require("fs");
const hl7 = require("simple-hl7");

const [file, answer, port] = process.argv.slice(2);
const app = hl7.tcp();

app.use((req, res, next) => {
  const results = req.msg.getSegments("OBX").map((obx) => [obx.getField(3), obx.getField(5)]);
  // On a line of its own, whatever is left there of one that was killed while it wrote.
  fs.appendFileSync(file, "\n" + JSON.stringify({ raw: req.raw, type: req.type, event: req.event, results }) + "\n");
  next();
});

app.use((req, res, next) => {
  if (answer === "silent") return;
  res.ack.getSegment("MSA").setField(1, answer);
  res.end();
});

app.use((err, req, res, next) => {
  fs.appendFileSync(file, JSON.stringify({ error: String(err) }) + "\n");
});

const { server } = app.start(Number(port || 0), "utf-8");
server.on("listening", () => console.log(`listening ${server.address().port}`));
