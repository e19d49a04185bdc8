// npm's jose as an oracle: reads one JSON object on standard input, writes one on standard output.
//   {"library": URL of jose's index.js, "seal": [{"plain": BASE64, "key": JWK, "header": {…}}], "open": [{"jwe": …, "key": JWK}]}
import { text } from "node:stream/consumers";

const asked = JSON.parse(await text(process.stdin));
const { CompactEncrypt, compactDecrypt, importJWK } = await import(asked.library);
const answer = { sealed: [], opened: [] };
for (const { plain, key, header } of asked.seal) {
  const made = new CompactEncrypt(Buffer.from(plain, "base64")).setProtectedHeader(header);
  answer.sealed.push(await made.encrypt(await importJWK(key, "ECDH-ES")));
}
for (const { jwe, key } of asked.open) {
  const { plaintext, protectedHeader } = await compactDecrypt(jwe, await importJWK(key, "ECDH-ES"));
  answer.opened.push({ plain: Buffer.from(plaintext).toString("base64"), header: protectedHeader });
}
process.stdout.write(JSON.stringify(answer));
