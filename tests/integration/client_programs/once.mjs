// Reads once and shows what a program may show by mistake. Ends by itself.
import { inspect } from 'node:util'
import { secrets, SecretsError } from '../../../clients/node/index.mjs'

const held = await secrets({ names: ['A'], timeout: 20_000 })
const shown = [inspect(held), `${held}`, JSON.stringify(held), inspect(held, { depth: 9, showHidden: true })]
try { held.get('NONE') } catch (error) { shown.push(error instanceof SecretsError, error.code, inspect(error)) }
const waited = await secrets({ names: ['A', 'NEVER'], timeout: 1 }).catch((error) => error)
const former = await held.previous('A')
console.log(JSON.stringify({
  kinds: [typeof held.get('A'), Buffer.isBuffer(held.get('B'))],
  shown: [...shown, inspect(waited)],
  former: former === process.argv[2],
  none: await held.previous('B') === undefined,
  odd: await held.previous('A/../B?x').catch(({ status }) => status)
}))
