use super::*;
use proptest::prelude::*;

const BOTH: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
const PLAIN: &[u8] = b"SCRAM-SHA-256\0\0";

fn verifier() -> Verifier {
    Verifier::from_password(b"pencil", b"0123456789abcdef", 16)
}

fn password(text: &str) -> ClientSecret {
    ClientSecret::Password(text.as_bytes().to_vec())
}

fn server(binding: Option<&[u8]>) -> ScramServer {
    ScramServer::new(
        Account::Known(&verifier()),
        Nonce::from_bytes([7; 18]),
        binding.map(<[u8]>::to_vec),
    )
}

fn client(secret: ClientSecret, offered: &[u8], binding: Option<&[u8]>) -> ScramClient {
    ScramClient::new(secret, offered, binding.map(<[u8]>::to_vec), Nonce::from_bytes([9; 18]))
        .expect("a mechanism in common")
}

/// Plays a whole exchange; the client has checked the server when this is `Ok`.
fn login(server: &mut ScramServer, client: &mut ScramClient) -> Result<ScramSuccess, AuthError> {
    let (mechanism, first) = client.initial();
    let challenge = server.on_initial(mechanism.as_bytes(), &first)?;
    let response = client.on_continue(&challenge)?;
    let success = server.on_final(&response)?;
    client.on_final(&success.server_final)?;
    Ok(success)
}

#[test]
fn rfc_7677_vector() {
    let salt = message::base64(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let verifier = Verifier::from_password(b"pencil", &salt, 4096);
    let nonce = Nonce::literal("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let mut server = ScramServer::new(Account::Known(&verifier), nonce, None);
    let challenge =
        server.on_initial(b"SCRAM-SHA-256", b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
    assert_eq!(
        challenge,
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let success = server
        .on_final(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        )
        .unwrap();
    assert_eq!(success.server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert!(success.keys.fit(&verifier));
}

#[test]
fn our_client_says_what_psql_says() {
    // A recorded exchange of psql, from postgres-protocol's tests.
    let mut client = ScramClient::new(
        password("foobar"),
        PLAIN,
        None,
        Nonce::literal("9IZ2O01zb9IgiIZ1WJ/zgpJB"),
    )
    .unwrap();
    assert_eq!(client.initial(), ("SCRAM-SHA-256", b"n,,n=,r=9IZ2O01zb9IgiIZ1WJ/zgpJB".to_vec()));
    let response = client
        .on_continue(
            b"r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,s=fs3IXBy7U7+IvVjZ,i=4096",
        )
        .unwrap();
    assert_eq!(
        response,
        b"c=biws,r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,\
          p=AmNKosjJzS31NTlQYNs5BTeQjdHdk7lOflDo5re2an8="
    );
    assert_eq!(client.on_final(b"v=U+ppxD5XUKtradnv8e2MkeupiA8FU87Sg8CXzXHDAzw="), Ok(()));
}

#[test]
fn verifier_reads_and_prints_what_postgres_stores() {
    let stored = postgres_protocol::password::scram_sha_256("påsswörd\u{a0}x".as_bytes());
    let verifier: Verifier = stored.parse().unwrap();
    assert_eq!(verifier.to_string(), stored);
    assert_eq!(verifier.iterations(), 4096);
    // The same password, prepared here: a non-breaking space becomes a space.
    assert_eq!(
        Verifier::from_password(b"p\xc3\xa5ssw\xc3\xb6rd x", &verifier.salt, 4096),
        verifier
    );
}

#[test]
fn what_is_no_verifier_is_refused() {
    let good = verifier().to_string();
    for bad in [
        "",
        "md562af4dd09bbb41884907a838a3233294",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:c2FsdA==",
        "SCRAM-SHA-256$4096:c2FsdA==$AAAA:AAAA",
        &good.replace("$16:", "$0:"),
        &good.replace("$16:", "$+16:"),
        &good.replace("$16:", "$99999999999:"),
        &format!("{good}x"),
    ] {
        assert_eq!(bad.parse::<Verifier>(), Err(AuthError::NotScram), "{bad}");
    }
}

#[test]
fn nothing_secret_is_printed_by_debug() {
    let verifier = verifier();
    let success = login(&mut server(None), &mut client(password("pencil"), PLAIN, None)).unwrap();
    let texts = [
        format!("{verifier:?}"),
        format!("{:?}", server(None)),
        format!("{:?}", client(password("pencil"), PLAIN, None)),
        format!("{:?} {:?}", success.keys, password("pencil")),
        format!("{:?}", ClientSecret::Keys(success.keys.clone())),
    ];
    let stored = verifier.to_string();
    for text in texts {
        assert!(!text.contains("pencil"), "{text}");
        for secret in stored.split(['$', ':']).skip(2) {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(!text.contains('['), "no bytes either: {text}");
    }
}

#[test]
fn right_password_logs_in_and_wrong_does_not() {
    assert!(login(&mut server(None), &mut client(password("pencil"), PLAIN, None)).is_ok());
    let wrong = login(&mut server(None), &mut client(password("pencils"), PLAIN, None));
    assert_eq!(wrong.map(|_| ()), Err(AuthError::WrongPassword));
    assert_eq!(AuthError::WrongPassword.sqlstate(), "28P01");
}

#[test]
fn the_clients_keys_log_in_to_a_node_with_the_same_verifier() {
    let success = login(&mut server(None), &mut client(password("pencil"), PLAIN, None)).unwrap();
    let keys = ClientSecret::Keys(success.keys);
    assert!(login(&mut server(None), &mut client(keys.clone(), PLAIN, None)).is_ok());

    // A node whose role got the same password in another ALTER ROLE has another salt.
    let other = Verifier::from_password(b"pencil", b"another salt....", 16);
    let mut node = ScramServer::new(Account::Known(&other), Nonce::random(), None);
    let refused = login(&mut node, &mut client(keys.clone(), PLAIN, None));
    assert_eq!(refused.map(|_| ()), Err(AuthError::VerifierDiffers));
    let other = Verifier::from_password(b"pencil", b"0123456789abcdef", 17);
    let mut node = ScramServer::new(Account::Known(&other), Nonce::random(), None);
    let refused = login(&mut node, &mut client(keys, PLAIN, None));
    assert_eq!(refused.map(|_| ()), Err(AuthError::VerifierDiffers));
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let secret = MockSecret::random(16);
    let attempt = |user: &str| {
        let account = Account::Unknown { user: user.as_bytes(), secret: &secret };
        let mut server = ScramServer::new(account, Nonce::from_bytes([1; 18]), None);
        let mut client = client(password("pencil"), PLAIN, None);
        let (mechanism, first) = client.initial();
        let challenge = server.on_initial(mechanism.as_bytes(), &first).unwrap();
        let response = client.on_continue(&challenge).unwrap();
        (challenge, server.on_final(&response).map(|_| ()))
    };
    let (first, result) = attempt("mallory");
    assert_eq!(result, Err(AuthError::WrongPassword));
    assert_eq!(attempt("mallory").0, first, "the salt must be stable, or it tells");
    assert_ne!(attempt("trudy").0, first);
    // The shape is that of a real one: same length of salt, same iterations.
    let mut real = server(None);
    let challenge = real.on_initial(b"SCRAM-SHA-256", b"n,,n=,r=abcdefghijklmnopqrstuvwx").unwrap();
    assert_eq!(challenge.len(), first.len());
}

#[test]
fn an_unknown_user_fails_even_with_a_fitting_proof() {
    let secret = MockSecret::random(16);
    // Whoever guessed the mock's password would still not come in.
    let account = Account::Unknown { user: b"mallory", secret: &secret };
    let mut server = ScramServer::new(account, Nonce::random(), None);
    server.verifier = verifier();
    let result = login(&mut server, &mut client(password("pencil"), PLAIN, None));
    assert_eq!(result.map(|_| ()), Err(AuthError::WrongPassword));
}

#[test]
fn channel_binding_ties_the_exchange_to_the_certificate() {
    let hash: &[u8] = &[0xab; 32];
    let mut bound = server(Some(hash));
    assert_eq!(bound.mechanisms(), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let mut peer = client(password("pencil"), BOTH, Some(hash));
    assert_eq!(peer.initial().0, "SCRAM-SHA-256-PLUS");
    assert!(login(&mut bound, &mut peer).is_ok());

    // A man in the middle shows another certificate.
    let mut peer = client(password("pencil"), BOTH, Some(&[0xcd; 32]));
    let result = login(&mut server(Some(hash)), &mut peer);
    assert_eq!(result.map(|_| ()), Err(AuthError::BindingMismatch));

    // A client without TLS support for it may do without.
    assert!(login(&mut server(Some(hash)), &mut client(password("pencil"), BOTH, None)).is_ok());
}

#[test]
fn a_removed_offer_of_channel_binding_is_a_downgrade() {
    let hash: &[u8] = &[0xab; 32];
    // The client saw only the plain mechanism, so it says "y".
    let mut peer = client(password("pencil"), PLAIN, Some(hash));
    let result = login(&mut server(Some(hash)), &mut peer);
    assert_eq!(result.map(|_| ()), Err(AuthError::Downgrade));
    assert_eq!(AuthError::Downgrade.sqlstate(), "28000");
    // Where nothing was offered "y" is right.
    let mut peer = client(password("pencil"), PLAIN, Some(hash));
    assert!(login(&mut server(None), &mut peer).is_ok());
    // Claiming "n" first and "y" in the final message does not get past the check either.
    let mut server = server(None);
    server.on_initial(b"SCRAM-SHA-256", b"n,,n=,r=abc").unwrap();
    let proof = "A".repeat(43) + "=";
    let answer =
        server.on_final(format!("c=eSws,r=abcBwcHBwcHBwcHBwcHBwcHBwcH,p={proof}").as_bytes());
    assert_eq!(answer.map(|_| ()), Err(AuthError::BindingMismatch));
}

#[test]
fn the_gs2_header_is_read_as_postgres_reads_it() {
    use AuthError::*;
    let bound: Option<&[u8]> = Some(&[1; 32]);
    let cases: [(Option<&[u8]>, &str, &str, AuthError); 12] = [
        (None, "SCRAM-SHA-1", "n,,n=,r=x", UnknownMechanism),
        (None, "SCRAM-SHA-256-PLUS", "n,,n=,r=x", UnknownMechanism),
        (
            bound,
            "SCRAM-SHA-256-PLUS",
            "n,,n=,r=x",
            Malformed("SCRAM-SHA-256-PLUS without channel binding"),
        ),
        (
            bound,
            "SCRAM-SHA-256-PLUS",
            "y,,n=,r=x",
            Malformed("SCRAM-SHA-256-PLUS without channel binding"),
        ),
        (
            bound,
            "SCRAM-SHA-256",
            "p=tls-server-end-point,,n=,r=x",
            Malformed("channel binding without SCRAM-SHA-256-PLUS"),
        ),
        (bound, "SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=x", Unsupported("channel binding type")),
        (None, "SCRAM-SHA-256", "n,a=root,n=,r=x", Unsupported("authorization identity")),
        (
            bound,
            "SCRAM-SHA-256-PLUS",
            "p=tls-server-end-point,a=root,n=,r=x",
            Unsupported("authorization identity"),
        ),
        (None, "SCRAM-SHA-256", "n,,m=x,n=,r=x", Unsupported("mandatory extension")),
        (None, "SCRAM-SHA-256", "x,,n=,r=x", Malformed("unexpected channel binding flag")),
        (None, "SCRAM-SHA-256", "", Malformed("unexpected channel binding flag")),
        (None, "SCRAM-SHA-256", "n,,n=,r=", Malformed("non-printable characters in the nonce")),
    ];
    for (binding, mechanism, data, error) in cases {
        let result = server(binding).on_initial(mechanism.as_bytes(), data.as_bytes());
        assert_eq!(result, Err(error), "{mechanism} {data}");
    }
    // A user name and unknown optional extensions are ignored.
    assert!(server(None).on_initial(b"SCRAM-SHA-256", b"n,,n=*,r=x,q=1").is_ok());
}

#[test]
fn a_server_that_does_not_know_the_secret_is_noticed() {
    let mut server = server(None);
    let mut peer = client(password("pencil"), PLAIN, None);
    let (mechanism, first) = peer.initial();
    let challenge = server.on_initial(mechanism.as_bytes(), &first).unwrap();
    peer.on_continue(&challenge).unwrap();
    let forged = format!("v={}=", "A".repeat(43));
    assert_eq!(peer.on_final(forged.as_bytes()), Err(AuthError::ServerNotGenuine));
    // And it cannot try again.
    assert_eq!(peer.on_final(forged.as_bytes()), Err(AuthError::OutOfOrder));
}

#[test]
fn a_server_must_add_to_our_nonce() {
    let ours = String::from_utf8(client(password("x"), PLAIN, None).first_bare_nonce()).unwrap();
    for nonce in [ours.clone(), format!("x{ours}"), "other".to_owned(), String::new()] {
        let mut peer = client(password("pencil"), PLAIN, None);
        peer.initial();
        let result = peer.on_continue(format!("r={nonce},s=c2FsdA==,i=1").as_bytes());
        assert!(matches!(result, Err(AuthError::Malformed(_))), "{nonce}: {result:?}");
    }
}

#[test]
fn a_server_cannot_order_unbounded_work() {
    let ours = String::from_utf8(client(password("x"), PLAIN, None).first_bare_nonce()).unwrap();
    let mut peer = client(password("pencil"), PLAIN, None);
    peer.initial();
    let result = peer.on_continue(format!("r={ours}x,s=c2FsdA==,i=4000000000").as_bytes());
    assert!(matches!(result, Err(AuthError::Unsupported(_))), "{result:?}");
}

#[test]
fn a_server_error_is_passed_on() {
    let mut server = server(None);
    let mut peer = client(password("pencil"), PLAIN, None);
    let (mechanism, first) = peer.initial();
    let challenge = server.on_initial(mechanism.as_bytes(), &first).unwrap();
    peer.on_continue(&challenge).unwrap();
    assert_eq!(
        peer.on_final(b"e=other-error"),
        Err(AuthError::ServerError("other-error".to_owned()))
    );
}

#[test]
fn a_node_must_offer_something_we_speak() {
    for offered in [&b""[..], b"\0", b"SCRAM-SHA-1\0\0", b"SCRAM-SHA-256-PLUS\0\0"] {
        let result = ScramClient::new(password("x"), offered, None, Nonce::random());
        assert_eq!(result.map(|_| ()), Err(AuthError::NoMechanism));
    }
}

#[test]
fn steps_out_of_order_and_long_messages_are_refused() {
    assert_eq!(server(None).on_final(b"").map(|_| ()), Err(AuthError::OutOfOrder));
    let mut twice = server(None);
    twice.on_initial(b"SCRAM-SHA-256", b"n,,n=,r=x").unwrap();
    assert_eq!(twice.on_initial(b"SCRAM-SHA-256", b"n,,n=,r=x"), Err(AuthError::OutOfOrder));
    let long = format!("n,,n=,r={}", "x".repeat(2000));
    assert_eq!(
        server(None).on_initial(b"SCRAM-SHA-256", long.as_bytes()),
        Err(AuthError::TooLong(2008))
    );
    assert_eq!(client(password("x"), PLAIN, None).on_continue(b""), Err(AuthError::OutOfOrder));
    assert_eq!(client(password("x"), PLAIN, None).on_final(b""), Err(AuthError::OutOfOrder));
}

/// Attribute soup: closer to real messages than random bytes are.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"n,,".to_vec()),
        Just(b"y,,".to_vec()),
        Just(b"p=tls-server-end-point,,".to_vec()),
        Just(b"n=,".to_vec()),
        Just(b"r=abc".to_vec()),
        Just(b"r=CQkJCQkJCQkJCQkJCQkJCQkJCQkJx".to_vec()),
        Just(b"c=biws".to_vec()),
        Just(b",p=".to_vec()),
        Just(b",s=c2FsdA==,i=2".to_vec()),
        Just(b"v=".to_vec()),
        Just(b",".to_vec()),
        Just(b"=".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn hostile_messages_never_panic_nor_log_in(a in soup(), b in soup(), plus: bool) {
        let mechanism = if plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
        let mut server = server(plus.then_some(&[1u8; 32][..]));
        let _ = server.on_initial(mechanism.as_bytes(), &a);
        prop_assert!(server.on_final(&b).is_err());

        let mut server = self::server(None);
        server.on_initial(b"SCRAM-SHA-256", b"n,,n=,r=abc").unwrap();
        prop_assert!(server.on_final(&b).is_err());

        let mut peer = client(password("pencil"), BOTH, plus.then_some(&[1u8; 32][..]));
        peer.initial();
        let _ = peer.on_continue(&a);
        prop_assert!(peer.on_final(&b).is_err());
    }

    #[test]
    fn any_password_logs_in_with_itself(secret in proptest::collection::vec(any::<u8>(), 0..40), salt: [u8; 16]) {
        let verifier = Verifier::from_password(&secret, &salt, 2);
        let mut server = ScramServer::new(Account::Known(&verifier), Nonce::random(), None);
        let mut peer = client(ClientSecret::Password(secret), PLAIN, None);
        prop_assert!(login(&mut server, &mut peer).is_ok());
    }

    #[test]
    fn a_flipped_bit_in_the_proof_fails(bit in 0usize..256) {
        let mut server = server(None);
        let mut peer = client(password("pencil"), PLAIN, None);
        let (mechanism, first) = peer.initial();
        let challenge = server.on_initial(mechanism.as_bytes(), &first).unwrap();
        let response = peer.on_continue(&challenge).unwrap();
        let at = memchr::memmem::rfind(&response, b",p=").unwrap() + 3;
        let mut proof = message::base64(&response[at..]).unwrap();
        proof[bit / 8] ^= 1 << (bit % 8);
        use base64::Engine;
        let mut forged = response[..at].to_vec();
        forged.extend(base64::engine::general_purpose::STANDARD.encode(&proof).into_bytes());
        prop_assert_eq!(server.on_final(&forged).map(|_| ()), Err(AuthError::WrongPassword));
    }
}
