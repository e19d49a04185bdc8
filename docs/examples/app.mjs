// An application: shows that it has read its secrets, by digests, at start and on change.
import { createHash } from 'node:crypto'
import { secrets } from './vps_secrets.mjs'

for await (const values of secrets()) {
  const shown = Object.keys(values).sort().map((name) =>
    `${name}=${createHash('sha256').update(values[name]).digest('hex').slice(0, 12)}`)
  console.log(shown.join(' '))
}
