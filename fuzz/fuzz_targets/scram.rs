#![no_main]
//! Both sides of a SCRAM login against a hostile peer.

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pgshunt::auth::{Account, ClientSecret, Nonce, ScramClient, ScramServer, Verifier};

fuzz_target!(|data: &[u8]| {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    let verifier =
        VERIFIER.get_or_init(|| Verifier::from_password(b"secret", b"0123456789abcdef", 2));
    let mut parts = data.splitn(3, |b| *b == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (mechanism, first, second) = (next(), next(), next());
    let nonce = || Nonce::from_bytes([7; 18]);

    for binding in [None, Some(vec![1; 32])] {
        let mut server = ScramServer::new(Account::Known(verifier), nonce(), binding.clone());
        let _ = server.on_initial(mechanism, first);
        assert!(server.on_final(second).is_err(), "logged in without the password");
        let mut server = ScramServer::new(Account::Known(verifier), nonce(), binding.clone());
        if server.on_initial(b"SCRAM-SHA-256", first).is_ok() {
            assert!(server.on_final(second).is_err(), "logged in without the password");
        }

        let secret = ClientSecret::Password(b"secret".to_vec());
        let offered = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        if let Ok(mut client) = ScramClient::new(secret, offered, binding, nonce()) {
            client.initial();
            // High iteration counts are allowed but would only slow this down.
            let costly = first
                .windows(5)
                .any(|w| w.starts_with(b"i=") && w[2..].iter().all(u8::is_ascii_digit));
            if !costly {
                let _ = client.on_continue(first);
            }
            assert!(client.on_final(second).is_err(), "took a server that knows no secret");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(read) = text.parse::<Verifier>()
    {
        assert_eq!(read.to_string().parse::<Verifier>().as_ref(), Ok(&read));
    }
});
