// Prints NAME=DIGEST of all values at start and after each change, as lab/demo/application.py reads it.
const { createHash } = require('node:crypto')
const { secrets } = require('../../../clients/node/index.cjs')

const digest = (value) => createHash('sha256').update(value).digest('hex').slice(0, 12)
const print = (held) => console.log(held.names.map((name) => `${name}=${digest(held.get(name))}`).join(' '))
secrets().then((held) => {
  print(held)
  held.onChange(() => print(held))
  setInterval(() => {}, 1000) // a server listens; the watch alone keeps no program alive
})
