# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Certificates for tests, made anew each time. Source it after lib/criu.sh; needs openssl.

# pki_make DIR: DIR/ca.pem, the authority, and as NAME.pem and NAME.key
#   server           for 127.0.0.1 and localhost
#   elsewhere        a server's for another host
#   client bob       CN=alice and CN=bob
#   expired revoked  once good ones; crl.pem revokes the latter
#   stranger         signed by another authority, which is stranger-ca.pem
pki_make()
{
	local dir=$1

	mkdir -p "$dir/db"
	cat > "$dir/ca.cnf" <<-END
		[ca]
		default_ca = this
		[this]
		dir = $dir/db
		database = $dir/db/index
		serial = $dir/db/serial
		crlnumber = $dir/db/crlnumber
		new_certs_dir = $dir/db
		default_md = sha256
		default_days = 30
		default_crl_days = 30
		unique_subject = no
		copy_extensions = copy
		policy = any
		[any]
		commonName = supplied
		[req]
		distinguished_name = dn
		[dn]
		[authority]
		basicConstraints = critical,CA:true
		keyUsage = critical,keyCertSign,cRLSign
		subjectKeyIdentifier = hash
	END
	: > "$dir/db/index"
	echo 01 > "$dir/db/serial"
	echo 01 > "$dir/db/crlnumber"
	{
		pki_authority "$dir" ca
		pki_authority "$dir" stranger-ca
		pki_cert "$dir" ca server server -addext "subjectAltName=IP:127.0.0.1,DNS:localhost"
		pki_cert "$dir" ca elsewhere elsewhere -addext "subjectAltName=DNS:elsewhere.example"
		pki_cert "$dir" ca client alice
		pki_cert "$dir" ca bob bob -addext "subjectAltName=DNS:bob.example"
		pki_cert "$dir" ca revoked revoked
		PKI_DAYS=past pki_cert "$dir" ca expired expired
		pki_cert "$dir" stranger-ca stranger alice
		openssl ca -batch -config "$dir/ca.cnf" -cert "$dir/ca.pem" -keyfile "$dir/ca.key" \
			-revoke "$dir/revoked.pem"
		openssl ca -batch -config "$dir/ca.cnf" -cert "$dir/ca.pem" -keyfile "$dir/ca.key" -gencrl \
			-out "$dir/crl.pem"
	} > "$dir/log" 2>&1 || { lp_say "cannot make certificates"; lp_tail "$dir/log"; return 1; }
}

pki_authority()
{
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1/$2.key" -out "$1/$2.pem" \
		-days 30 -subj "/CN=$2" -config "$1/ca.cnf" -extensions authority
}

# pki_cert DIR CA NAME CN OPTION...: options go to the request.
pki_cert()
{
	local dir=$1 ca=$2 name=$3 cn=$4 dates=()

	shift 4
	[ "${PKI_DAYS:-}" != past ] || dates=(-startdate 20200101000000Z -enddate 20200201000000Z)
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/$name.key" -out "$dir/$name.csr" \
		-subj "/CN=$cn" -config "$dir/ca.cnf" "$@" &&
		openssl ca -batch -notext -config "$dir/ca.cnf" -cert "$dir/$ca.pem" -keyfile "$dir/$ca.key" \
			-in "$dir/$name.csr" -out "$dir/$name.pem" "${dates[@]}"
}
