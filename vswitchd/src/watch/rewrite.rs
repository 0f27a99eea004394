//! What of a frame was rewritten between its coming in and its leaving.

use std::fmt::Write as _;

use switch_core::wire::TagStack;

/// Most places that are listed.
const PLACES_MAX: usize = 8;
/// Most bytes of a place that are shown.
const SHOWN_MAX: usize = 64;
/// Two addresses.
const ADDRESSES: usize = 12;

/// How `after` differs from `before`, in words: a tag that came or went, bytes in front, places with
/// other bytes. Of both as much as was kept.
pub(super) fn rewrite(before: &[u8], after: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(front) = in_front(before, after) {
        out.push(format!("{} bytes in front: {}", front.len(), hex(front)));
        return out;
    }
    let (tag_before, rest_before) = untagged(before);
    let (tag_after, rest_after) = untagged(after);
    match (tag_before, tag_after) {
        (None, Some(tag)) => out.push(format!("byte {ADDRESSES}: VLAN tag {tag} put in")),
        (Some(tag), None) => out.push(format!("byte {ADDRESSES}: VLAN tag {tag} taken out")),
        (Some(a), Some(b)) if a != b => {
            out.push(format!("byte {ADDRESSES}: VLAN tag {a} became {b}"));
        }
        _ => {}
    }
    let at = |index: usize| {
        if index < ADDRESSES { index } else { after.len() - rest_after.len() + index }
    };
    let mut places = 0;
    let mut index = 0;
    let len = rest_before.len().min(rest_after.len());
    while index < len {
        let differs = |i: &usize| rest_before[*i] != rest_after[*i];
        let run = (index..len).take_while(differs).count();
        if run > 0 {
            places += 1;
            if places <= PLACES_MAX {
                let (a, b) = (&rest_before[index..index + run], &rest_after[index..index + run]);
                out.push(format!("byte {}: {} became {}", at(index), hex(a), hex(b)));
            }
        }
        index += run.max(1);
    }
    if places > PLACES_MAX {
        out.push(format!("{} more places", places - PLACES_MAX));
    }
    out
}

/// What was put in front of a frame that is otherwise the same.
fn in_front<'a>(before: &[u8], after: &'a [u8]) -> Option<&'a [u8]> {
    // A frame of which only the first bytes were kept ends earlier: its beginning has to be found.
    let most = after.len().min(256);
    let begins = |at: &usize| {
        let tail = &after[*at..];
        let len = tail.len().min(before.len());
        len >= 14.min(before.len()) && tail[..len] == before[..len]
    };
    (20..most).find(begins).filter(|_| before.len() >= 14).map(|at| &after[..at])
}

/// The outer tag (VID), and the frame without it.
fn untagged(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    let vid = TagStack::parse(frame).ok().and_then(|t| t.outer().map(|tag| tag.tci().vid()));
    match vid {
        Some(vid) => (Some(vid), [&frame[..ADDRESSES], &frame[ADDRESSES + 4..]].concat()),
        None => (None, frame.to_vec()),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes.iter().take(SHOWN_MAX) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    if bytes.len() > SHOWN_MAX {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: &[u8], payload: &[u8]) -> Vec<u8> {
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], tag, &[8, 0], payload].concat()
    }

    #[test]
    fn what_was_rewritten_is_named_with_its_place() {
        let plain = frame(&[], &[1, 2, 3, 4]);
        let tagged = frame(&[0x81, 0, 0, 10], &[1, 2, 3, 4]);
        assert!(rewrite(&plain, &plain).is_empty());
        assert_eq!(rewrite(&plain, &tagged), ["byte 12: VLAN tag 10 put in"]);
        assert_eq!(rewrite(&tagged, &plain), ["byte 12: VLAN tag 10 taken out"]);
        let other = frame(&[], &[1, 9, 9, 4]);
        assert_eq!(rewrite(&plain, &other), ["byte 15: 0203 became 0909"]);
        let outer = [&[0x45; 36][..], &plain].concat();
        let said = rewrite(&plain, &outer);
        assert!(said[0].starts_with("36 bytes in front: 4545") && said.len() == 1, "{said:?}");
    }
}
