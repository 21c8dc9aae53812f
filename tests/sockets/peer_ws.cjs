// A peer made with npm's ws: lines of JSON come in and go out, a text each, null for a ping and its pong; the end of stdin closes the link.
const WebSocket = require(process.argv[2]);
const link = new WebSocket(process.argv[3]);
const tell = (what) => process.stdout.write(JSON.stringify(what) + "\n");

link.on("open", () => {
  tell("open");
  const lines = require("readline").createInterface({ input: process.stdin });
  lines.on("line", (line) => (line === "null" ? link.ping("ws") : link.send(JSON.parse(line))));
  lines.on("close", () => link.close(1000));
});
link.on("message", (data) => tell(data.toString()));
link.on("pong", () => tell(null));
link.on("close", (code) => (process.exitCode = code === 1000 ? 0 : 1));
link.on("error", (error) => {
  console.error(error);
  process.exitCode = 1;
});
