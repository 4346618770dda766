# Keeps a broad policy away from the break-glass keys. Say that developers have `path "secret/data/*"`: they can read them, and so can
# whatever logs in with that policy. `deny` wins over every other capability on the same path, whichever policy of the token it stands in,
# and a longer path wins over a shorter one.
#   vault policy write breakglass-deny deny-broad.hcl
# then add it wherever the broad policy is given, for example
#   vault write auth/kubernetes/role/developers token_policies=developers,breakglass-deny
# or copy the blocks into the broad policy itself. A policy that names a key in full is more exact still: name that path here in full as well.
# Never give it to the role devvm: the deny would win there too.
# Try it with a token of theirs:  vault token capabilities secret/data/breakglass/devvm   must say  deny

# The keys, all versions.
path "secret/data/breakglass/*" {
  capabilities = ["deny"]
}

# Their names, and what destroys or brings back a version.
path "secret/metadata/breakglass/*" {
  capabilities = ["deny"]
}
path "secret/delete/breakglass/*" {
  capabilities = ["deny"]
}
path "secret/undelete/breakglass/*" {
  capabilities = ["deny"]
}
path "secret/destroy/breakglass/*" {
  capabilities = ["deny"]
}
path "secret/subkeys/breakglass/*" {
  capabilities = ["deny"]
}

# Certificates for hypervisors.
path "ssh-client-signer/sign/power" {
  capabilities = ["deny"]
}
path "ssh-client-signer/issue/power" {
  capabilities = ["deny"]
}
