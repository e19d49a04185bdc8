// A portal asks the deployer for a VPS, waits until it has its secrets, and says what became of it.
//   node portal.mjs vps-prod-001 backend env=prod
// Node.js, no dependency. This process's user needs the role portal: [[role]] in deployer.toml.
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'

const socketPath = process.env.DEPLOYER_SOCKET ?? '/run/vps-secrets-deployer/api.sock'
const [id, blueprint, ...labels] = process.argv.slice(2)

const ask = (method, path, content, headers = {}) => new Promise((resolve, reject) => {
  const request = http.request({ socketPath, method, path, headers: { 'Content-Type': 'application/json', ...headers } })
  request.on('error', reject).on('response', async (response) => {
    const answer = JSON.parse(Buffer.concat(await response.toArray()).toString())
    if (response.statusCode < 300) return resolve(answer)
    // RFC 9457: type is for programs, title and detail for people; errors says where a body is wrong
    reject(Object.assign(new Error(`${method} ${path}: ${answer.title}. ${answer.detail ?? ''}`), answer))
  })
  request.end(content && JSON.stringify(content))
})

// the key makes it one order, however often this line runs: after a time-out, just run it again
const wish = { blueprint, labels: Object.fromEntries(labels.map((label) => label.split('='))) }
let operation = await ask('PUT', `/v1/vps/${id}`, wish, { 'Idempotency-Key': `deploy-${id}` })
console.log(`operation ${operation.id}`)
while (['wanted', 'running'].includes(operation.state)) {
  await sleep(500)
  operation = await ask('GET', `/v1/operations/${operation.id}`)
}
const { vps, secrets } = await ask('GET', `/v1/vps/${id}`)
console.log(`${id}: ${operation.state} ${operation.error ?? ''}(${vps.look}, ${secrets.length} secrets)`)
