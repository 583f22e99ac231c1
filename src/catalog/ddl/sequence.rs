//! ALTER SEQUENCE ... RESTART of a distributed table's sequence: each node goes on from there with the next value
//! of its own slot, so that values never collide.

use futures_util::future::try_join_all;
use postgres_protocol::escape::escape_identifier as ident;

use super::change::look_up;
use super::statement::Name;
use super::{Client, DdlError, Everywhere, Peer};

/// The home node restarts it as the client says; the others, and the home node again, from where that is.
pub(super) async fn restart(
    all: Everywhere,
    by: Client<'_>,
    name: &Name,
) -> Result<Everywhere, DdlError> {
    let sequence = look_up(&all, by.who, name).await?;
    let mut all = all.run_text(by.request, by.who).await?;
    let Some(sequence) = sequence else {
        all.others.clear();
        return Ok(all);
    };
    let quoted = format!("{}.{}", ident(&sequence.schema), ident(&sequence.name));
    let asked: i64 = all
        .home
        .client
        .query_one(&format!("SELECT last_value FROM {quoted}"), &[])
        .await?
        .try_get(0)?;
    try_join_all(all.peers().map(|peer| from(peer, &quoted, asked))).await?;
    Ok(all)
}

async fn from(peer: &Peer, sequence: &str, asked: i64) -> Result<(), DdlError> {
    const SLOT: &str =
        "SELECT seqstart, seqincrement FROM pg_sequence WHERE seqrelid = to_regclass($1)";
    let row = peer.client.query_one(SLOT, &[&sequence]).await.map_err(|e| peer.blame(e))?;
    let (start, step): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let next = next(start, step, asked).ok_or_else(|| {
        DdlError::new(
            "22023",
            format!("sequence {sequence} has no value of its own behind {asked}"),
        )
        .on_node(&peer.node.name)
    })?;
    peer.run(&format!("ALTER SEQUENCE {sequence} RESTART WITH {next}")).await
}

/// The first value from `asked` on, in the sequence's direction, that is a number of steps from `start`.
fn next(start: i64, step: i64, asked: i64) -> Option<i64> {
    let (stride, ahead) = (i128::from(step).abs(), i128::from(asked) - i128::from(start));
    // Rounded towards the sequence's end.
    let steps = ahead.div_euclid(stride) + i128::from(step > 0 && ahead.rem_euclid(stride) != 0);
    i64::try_from(i128::from(start) + steps * stride).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_goes_on_with_a_value_of_its_own() {
        for (start, step, asked, expected) in [
            (1, 32, 1, 1),
            (2, 32, 1, 2),
            (2, 32, 2, 2),
            (2, 32, 3, 34),
            (1, 32, 1000, 1025),
            (2, 32, -40, -30),
            (-1, -32, -1, -1),
            (-2, -32, -1, -2),
            (-1, -32, -2, -33),
            (-1, -32, 100, 95),
        ] {
            assert_eq!(next(start, step, asked), Some(expected), "{start} {step} {asked}");
        }
        assert_eq!(next(1, 32, i64::MAX), None);
    }
}
