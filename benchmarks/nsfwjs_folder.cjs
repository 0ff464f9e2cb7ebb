// Score a folder of JPEGs with nsfwjs: node nsfwjs_folder.cjs <backend> <count> <folder>; one line of JSON on stdout.
const fs = require("fs");
const path = require("path");
const { pathToFileURL } = require("url");

async function main(backend, count, folder) {
  const began = performance.now();
  const tf = require("@tensorflow/tfjs");
  if (backend === "wasm") require("@tensorflow/tfjs-backend-wasm");
  const jpeg = require("jpeg-js");
  // Its CommonJS build takes a minute to copy its own weights, letter by letter; this one does not.
  const entry = path.join(process.env.NODE_PATH, "nsfwjs", "dist", "esm", "index.js");
  const nsfwjs = await import(pathToFileURL(entry).href);
  tf.enableProdMode();
  await tf.setBackend(backend);
  const model = await nsfwjs.load("InceptionV3", { size: 299 });
  let first = null, started = null;
  for (const name of fs.readdirSync(folder).sort().slice(0, count)) {
    const { data, width, height } = jpeg.decode(fs.readFileSync(path.join(folder, name)), { formatAsRGBA: false, useTArray: true });
    const pixels = tf.tensor3d(data, [height, width, 3], "int32");
    await model.classify(pixels);
    pixels.dispose();
    first ??= performance.now() - began;
    started ??= performance.now();
  }
  const seconds = (performance.now() - started) / 1000;
  const rest = count - 1;
  process.stdout.write(JSON.stringify({
    backend: tf.getBackend(), images: count, rate: rest / seconds, total: null, first: first / 1000,
    peak_mb: process.resourceUsage().maxRSS / 1024,
  }));
}

main(process.argv[2], Number(process.argv[3]), process.argv[4]).catch((error) => {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
});
