# Keys, kubeconfigs, configuration files and flags of the cluster's components. Sourced by `up`.
# shellcheck shell=bash disable=SC2034,SC2164,SC2054

POD_CIDR=10.244.0.0/16
SERVICE_CIDR=10.96.0.0/16

# --- keys ---------------------------------------------------------------------------------------

authority() { # NAME SUBJECT
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$2" \
		-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature \
		-keyout "$1.key" -out "$1.crt" 2>/dev/null
}

certificate() { # NAME AUTHORITY SUBJECT USAGES [ALTERNATIVE-NAMES]
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "$3" -CA "$2.crt" -CAkey "$2.key" \
		-addext basicConstraints=critical,CA:FALSE -addext "extendedKeyUsage=$4" ${5:+-addext "subjectAltName=$5"} \
		-keyout "$1.key" -out "$1.crt" 2>/dev/null
}

make_keys() {
	local services=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
	cd "$ST/pki"
	authority ca sandglass-e2e
	authority front-proxy-ca sandglass-e2e-front-proxy
	certificate apiserver ca /CN=kube-apiserver serverAuth "$services,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
	certificate kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
	certificate front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
	certificate kubelet ca /O=system:nodes/CN=system:node:node1 clientAuth,serverAuth "DNS:node1,IP:$NODE_IP"
	certificate admin ca /O=system:masters/CN=admin clientAuth
	certificate kcm ca /CN=system:kube-controller-manager clientAuth
	certificate scheduler ca /CN=system:kube-scheduler clientAuth
	certificate proxy ca /CN=system:kube-proxy clientAuth
	openssl genrsa -out sa.key 2048 2>/dev/null
	openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
	cd "$ST"
	kubeconfig admin >"$ST/admin.kubeconfig.new"
	chmod 0600 "$ST/admin.kubeconfig.new"
	mv "$ST/admin.kubeconfig.new" "$ST/admin.kubeconfig"
	local name
	for name in kubelet kcm scheduler proxy; do
		kubeconfig "$name" >"$ST/pki/$name.kubeconfig"
	done
}

kubeconfig() { # NAME
	(
		umask 077
		cat <<-END
			apiVersion: v1
			kind: Config
			clusters:
			- name: sandglass-e2e
			  cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: "$(base64 -w0 "$ST/pki/ca.crt")"}
			users:
			- name: $1
			  user: {client-certificate-data: "$(base64 -w0 "$ST/pki/$1.crt")", client-key-data: "$(base64 -w0 "$ST/pki/$1.key")"}
			contexts:
			- name: sandglass-e2e
			  context: {cluster: sandglass-e2e, user: $1}
			current-context: sandglass-e2e
		END
	)
}

# --- configuration files ------------------------------------------------------------------------

containerd_configuration() {
	local images='plugins."io.containerd.cri.v1.images"' runtime='plugins."io.containerd.cri.v1.runtime"'
	cat <<-END
		version = 3
		root = "$ST/containerd/root"
		state = "$ST/containerd/run"
		# These two would write to /opt/containerd and /run/nri.
		disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]
		[grpc]
		  address = "$SOCK"
		[$images]
		  snapshotter = "overlayfs"
		[$images.registry]
		  config_path = "$ST/config/registries"
		[$images.pinned_images]
		  sandbox = "local.test/pause:3.10"
		[$runtime]
		  # Some kernels refuse a negative oom_score_adj even to root, and every pod asks for one.
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		  netns_mounts_under_state_dir = true
		[$runtime.cni]
		  bin_dirs = ["/usr/lib/cni"]
		  conf_dir = "$ST/cni"
		[$runtime.containerd]
		  default_runtime_name = "runc"
		[$runtime.containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[$runtime.containerd.runtimes.runc.options]
		  BinaryName = "$BIN/runc"
		  SystemdCgroup = false
		  Root = "$ST/runc"
	END
}

registry_configuration() { # a pull is refused at once; without this it waits for minutes and holds up the next ones
	echo 'server = "http://127.0.0.1:1"'
}

cni_configuration() { # addresses from .200 on are left for servers and machines of the tests
	cat <<-END
		{"cniVersion": "1.0.0", "name": "sandglass-e2e", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "$ST/ipam", "routes": [{"dst": "0.0.0.0/0"}],
		            "ranges": [[{"subnet": "10.244.0.0/24", "gateway": "$NODE_IP", "rangeEnd": "10.244.0.199"}]]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
}

kubelet_configuration() {
	cat <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: $NODE_IP
		readOnlyPort: 0
		healthzBindAddress: 127.0.0.1
		authentication:
		  anonymous: {enabled: false}
		  webhook: {enabled: true}
		  x509: {clientCAFile: $ST/pki/ca.crt}
		authorization: {mode: Webhook}
		tlsCertFile: $ST/pki/kubelet.crt
		tlsPrivateKeyFile: $ST/pki/kubelet.key
		containerRuntimeEndpoint: unix://$SOCK
		failCgroupV1: false # a machine with cgroup v1 is refused otherwise
		cgroupDriver: cgroupfs
		cgroupRoot: /
		enforceNodeAllocatable: [pods]
		failSwapOn: false
		oomScoreAdj: 0
		protectKernelDefaults: false
		resolvConf: $ST/config/resolv.conf
		clusterDNS: [$NODE_IP]
		clusterDomain: cluster.local
		staticPodPath: $ST/static
		podLogsDir: $ST/podlogs
		volumePluginDir: $ST/volplugins
		runtimeRequestTimeout: 2m
		# Images are imported, nothing could pull them again: none may be collected.
		imageMinimumGCAge: 24h
		imageGCHighThresholdPercent: 100
		imageGCLowThresholdPercent: 99
		# A full disk of the machine is not what the tests are about.
		evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
	END
}

proxy_configuration() {
	cat <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		mode: nftables
		clusterCIDR: $POD_CIDR
		hostnameOverride: node1
		oomScoreAdj: 0
		clientConnection: {kubeconfig: $ST/pki/proxy.kubeconfig}
		healthzBindAddress: 127.0.0.1:10256
		metricsBindAddress: 127.0.0.1:10249
		conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s} # else it writes sysctls of the machine
	END
}

write_configuration() {
	containerd_configuration >"$ST/config/containerd.toml"
	mkdir -p "$ST/config/registries/_default"
	registry_configuration >"$ST/config/registries/_default/hosts.toml"
	cni_configuration >"$ST/cni/10-sandglass-e2e.conflist"
	kubelet_configuration >"$ST/config/kubelet.yaml"
	proxy_configuration >"$ST/config/kube-proxy.yaml"
	echo "nameserver $NODE_IP" >"$ST/config/resolv.conf" # never the machine's own; nothing answers there
	if [ "${SANDGLASS_E2E_AUDIT:-}" = 1 ]; then
		printf '%s\n' 'apiVersion: audit.k8s.io/v1' 'kind: Policy' 'omitStages: [RequestReceived]' 'rules: [{level: Metadata}]' >"$ST/config/audit.yaml"
		APISERVER_FLAGS+=(--audit-policy-file="$ST/config/audit.yaml" --audit-log-path="$ST/log/audit.log")
	fi
}

# --- flags (arrays that `up` reads) -------------------------------------------------------------

ETCD_FLAGS=(
	--name=e --data-dir="$ST/etcd/data" --log-level=warn --initial-cluster=e=http://127.0.0.1:2380
	--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
	--listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380
)
APISERVER_FLAGS=(
	--etcd-servers=http://127.0.0.1:2379 --bind-address="$NODE_IP" --secure-port=6443 --advertise-address="$NODE_IP"
	--tls-cert-file="$ST/pki/apiserver.crt" --tls-private-key-file="$ST/pki/apiserver.key" --client-ca-file="$ST/pki/ca.crt"
	--service-account-issuer=https://kubernetes.default.svc.cluster.local
	--service-account-key-file="$ST/pki/sa.pub" --service-account-signing-key-file="$ST/pki/sa.key"
	--service-cluster-ip-range="$SERVICE_CIDR" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
	--allow-privileged=true --endpoint-reconciler-type=lease --enable-aggregator-routing=true
	--kubelet-client-certificate="$ST/pki/kubelet-client.crt" --kubelet-client-key="$ST/pki/kubelet-client.key"
	--kubelet-certificate-authority="$ST/pki/ca.crt" --kubelet-preferred-address-types=InternalIP,Hostname
	--requestheader-client-ca-file="$ST/pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client
	--requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
	--requestheader-extra-headers-prefix=X-Remote-Extra-
	--proxy-client-cert-file="$ST/pki/front-proxy-client.crt" --proxy-client-key-file="$ST/pki/front-proxy-client.key"
)
CONTROLLER_MANAGER_FLAGS=(
	--kubeconfig="$ST/pki/kcm.kubeconfig" --authentication-kubeconfig="$ST/pki/kcm.kubeconfig"
	--authorization-kubeconfig="$ST/pki/kcm.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false
	--cluster-cidr="$POD_CIDR" --allocate-node-cidrs=true --node-cidr-mask-size=24 --service-cluster-ip-range="$SERVICE_CIDR"
	--use-service-account-credentials=true --root-ca-file="$ST/pki/ca.crt" --service-account-private-key-file="$ST/pki/sa.key"
	--cluster-signing-cert-file="$ST/pki/ca.crt" --cluster-signing-key-file="$ST/pki/ca.key" --cert-dir="$ST/kcm"
)
SCHEDULER_FLAGS=(
	--kubeconfig="$ST/pki/scheduler.kubeconfig" --authentication-kubeconfig="$ST/pki/scheduler.kubeconfig"
	--authorization-kubeconfig="$ST/pki/scheduler.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false
)
KUBELET_FLAGS=(
	--config="$ST/config/kubelet.yaml" --kubeconfig="$ST/pki/kubelet.kubeconfig" --root-dir="$ST/kubelet"
	--cert-dir="$ST/kubelet/pki" --hostname-override=node1 --node-ip="$NODE_IP"
)
KUBE_ROUTER_FLAGS=(
	--kubeconfig="$ST/admin.kubeconfig" --run-firewall=true --run-router=false --run-service-proxy=false --run-loadbalancer=false
	--enable-cni=false --hostname-override=node1 --service-cluster-ip-range="$SERVICE_CIDR" --service-node-port-range=30000-32767
	--iptables-sync-period=30s --health-addr=127.0.0.1 --health-port=20244
)
