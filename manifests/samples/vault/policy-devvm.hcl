# All that the role devvm may do. Sandglass asks Vault before it reads anything, and stops with VaultRoleTooBroad if there is more.
#   vault policy write devvm policy-devvm.hcl

# The key of the machine. KV version 2 has data/ in the path. No list, no metadata, no wildcard.
path "secret/data/breakglass/devvm" {
  capabilities = ["read"]
}

# A certificate for the hypervisor. Leave it out where there is none.
path "ssh-client-signer/sign/power" {
  capabilities = ["update"]
}

# To ask what the token may do. It comes from the policy `default` otherwise, which the role goes without.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# To end the token as soon as the keys are fetched.
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
