// Reads the secrets of this VPS at start and whenever one changes. Node.js, no dependency.
import http from 'node:http'

const socketPath = process.env.VPS_SECRETS_SOCKET ?? '/run/vps-secrets/app.sock'

const get = (path) => new Promise((resolve, reject) => {
  http.get({ socketPath, path }, (response) => {
    const chunks = []
    response.on('data', (chunk) => chunks.push(chunk)).on('error', reject).on('end', () => {
      const body = Buffer.concat(chunks).toString()
      if (response.statusCode >= 300) reject(new Error(`${path}: ${response.statusCode} ${body}`))
      else resolve(body && JSON.parse(body))
    })
  }).on('error', reject)
})

// text is a string; what is not UTF-8 comes in base64 and is a Buffer
const valuesOf = ({ secrets }) => Object.fromEntries(Object.entries(secrets).map(([name, value]) =>
  [name, typeof value === 'string' ? value : Buffer.from(value.base64, 'base64')]))

export async function * secrets () {
  let known = 0 // the generation of the values that we have: 0 for none yet
  for (;;) {
    try {
      // nothing new? A restarted agent knows what has changed since, too
      if (!await get(`/v1/watch?after=${known}&timeout=60`)) continue
      const bundle = await get('/v1/bundle') // one snapshot: values rotated together arrive together
      known = bundle.generation
      yield valuesOf(bundle)
    } catch (error) {
      console.error(`secrets: ${error.message}`)
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
}
