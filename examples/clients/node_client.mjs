// node node_client.mjs URL IMAGE...: writes NAME.purified.png beside each image.

import { readFile, writeFile } from "node:fs/promises";
import { bounded, classify, purify } from "./arn.mjs";

const [base, ...names] = process.argv.slice(2);
const options = { key: process.env.ARN_CLIENT_KEY ?? "" };

async function one(name) {
  try {
    const image = await readFile(name);
    const { png, linf } = await purify(base, image, options);
    await writeFile(name.replace(/\.\w+$/, ".purified.png"), Buffer.from(await png.arrayBuffer()));
    const { label } = await classify(base, image, options);
    console.log(`${name}: label ${label}, changed by at most ${Math.round(255 * linf)} of 255`);
  } catch (error) {
    console.error(`${name}: ${error.message}`); // the others may be right
    process.exitCode = 1;
  }
}

await bounded(names, one);
