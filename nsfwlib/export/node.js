// Ask nsfwjs itself: node node.js <folder of model.json> <size> <manifest>, answers as JSON on stdout.
// The manifest lists raw RGB pictures: [{"file": ..., "height": ..., "width": ...}, ...].
const fs = require("fs");
const http = require("http");
const path = require("path");
const { pathToFileURL } = require("url");

async function main(folder, size, manifest) {
  const tf = require("@tensorflow/tfjs");
  require("@tensorflow/tfjs-backend-wasm");
  // Its CommonJS build takes a minute to copy its own weights, letter by letter; this one does not.
  const entry = path.join(process.env.NODE_PATH, "nsfwjs", "dist", "esm", "index.js");
  const nsfwjs = await import(pathToFileURL(entry).href);
  await tf.setBackend("wasm");
  const server = http.createServer((request, response) => {
    const file = path.join(folder, path.basename(request.url));
    fs.existsSync(file) ? response.end(fs.readFileSync(file)) : response.writeHead(404).end();
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const url = `http://127.0.0.1:${server.address().port}/`;
  const model = folder === "InceptionV3" ? await nsfwjs.load(folder, { size }) : await nsfwjs.load(url, { size });
  const answers = { backend: tf.getBackend(), probabilities: [], milliseconds: [], classes: null };
  for (const { file, height, width } of JSON.parse(fs.readFileSync(manifest))) {
    const pixels = tf.tensor3d(new Uint8Array(fs.readFileSync(file)), [height, width, 3], "int32");
    const started = performance.now();
    answers.probabilities.push(Array.from(await model.infer(pixels).data()));
    answers.milliseconds.push(performance.now() - started);
    answers.classes ??= (await model.classify(pixels)).map((each) => each.className);
  }
  server.close();
  process.stdout.write(JSON.stringify(answers));
}

main(process.argv[2], Number(process.argv[3]), process.argv[4]).catch((error) => {
  process.stderr.write(`${error.message ?? error}\n`);
  process.exit(1);
});
