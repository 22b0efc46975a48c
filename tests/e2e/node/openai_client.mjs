// Calls the gateway with the stock `openai` package and prints what the caller got, one JSON document.
// Usage: node openai_client.mjs BASE_URL KEY PICTURE OPERATION
import fs from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey, picture, operation] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const model = "meta/sam-3-image";
const image = `data:image/png;base64,${fs.readFileSync(picture).toString("base64")}`;
const points = [{ x: 5, y: 6, label: 1 }, { x: 7, y: 8, label: 0 }];

const operations = {
  generate: () => client.images.generate({ model, prompt: "red circle", image }),
  generate_base64: () => client.images.generate({ model, prompt: "red circle", image, response_format: "b64_json" }),
  edit: () => client.images.edit({ model, prompt: "", image: fs.createReadStream(picture), point_prompts: points }),
  edit_two: () =>
    client.images.edit({ model, prompt: "x", image: [fs.createReadStream(picture), fs.createReadStream(picture)] }),
  models: async () => (await client.models.list()).data.map((each) => each.id),
  model: () => client.models.retrieve(model),
  no_picture: () => client.images.generate({ model, prompt: "a house" }),
  unknown_model: () => client.images.generate({ model: "meta/sam-9", prompt: "x", image }),
};

try {
  console.log(JSON.stringify({ result: await operations[operation]() }));
} catch (error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  const { status, type, code, param, message, requestID } = error;
  console.log(JSON.stringify({ raised: error.constructor.name, status, type, code, param, message, requestID }));
}
