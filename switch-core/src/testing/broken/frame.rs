//! Frames that break the promises of [`Frame`], one each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Defect;
use crate::frame::{Frame, HEAD_CAPACITY, HeapFrame, NoHeadroom, NoTailroom, Offload, TooShort};

/// Where a head that is too short ends.
const SHORT: usize = 64;

/// A [`HeapFrame`] with one defect.
#[derive(Debug)]
pub struct BrokenFrame {
    inner: HeapFrame,
    defect: Defect,
    /// It was made by [`Frame::share`].
    copy: bool,
    trimmed: bool,
    /// Of an original: what it looks like once its copy was written to, and whether it was.
    spoiled: Option<(Arc<AtomicBool>, Vec<u8>)>,
    /// Of a copy: to be set when it is written to.
    written: Option<Arc<AtomicBool>>,
}

impl BrokenFrame {
    pub(super) fn new(inner: HeapFrame, defect: Defect) -> Self {
        Self { inner, defect, copy: false, trimmed: false, spoiled: None, written: None }
    }

    /// A frame as it comes in, with the harm that is done to it then.
    pub(super) fn received(mut inner: HeapFrame, defect: Defect) -> Self {
        match defect {
            Defect::LosesOffload => inner.set_offload(Offload::NONE),
            Defect::TruncatesLong => inner.truncate(HEAD_CAPACITY),
            Defect::DamagesLong if inner.len() == 512 => {
                if let Some(byte) = inner.head_mut().last_mut() {
                    *byte = !*byte;
                }
            }
            _ => {}
        }
        Self::new(inner, defect)
    }

    pub(super) fn inner_mut(&mut self) -> &mut HeapFrame {
        &mut self.inner
    }

    pub(super) fn into_inner(self) -> HeapFrame {
        self.inner
    }

    fn head_len(&self) -> usize {
        let len = self.inner.head().len();
        match self.defect {
            Defect::ShortHead => len.min(SHORT),
            Defect::TrimShortensHead if self.trimmed => len.min(SHORT),
            _ => len,
        }
    }

    fn note_write(&self) {
        if let Some(written) = &self.written {
            written.store(true, Ordering::Relaxed);
        }
    }

    fn spoiled_head(&self) -> Option<&[u8]> {
        let (written, bytes) = self.spoiled.as_ref()?;
        written.load(Ordering::Relaxed).then_some(bytes)
    }
}

impl Frame for BrokenFrame {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn head(&self) -> &[u8] {
        self.spoiled_head().unwrap_or_else(|| &self.inner.head()[..self.head_len()])
    }

    fn head_mut(&mut self) -> &mut [u8] {
        self.note_write();
        let len = self.head_len();
        &mut self.inner.head_mut()[..len]
    }

    fn for_each_segment<'a>(&'a self, f: &mut dyn FnMut(&'a [u8])) {
        let mut spoiled = self.spoiled_head();
        self.inner.for_each_segment(&mut |piece| f(spoiled.take().unwrap_or(piece)));
    }

    fn segments(&self) -> usize {
        self.inner.segments()
    }

    fn headroom(&self) -> usize {
        if self.copy && self.defect == Defect::ShareHasNoRoom { 0 } else { self.inner.headroom() }
    }

    fn prepend(&mut self, n: usize) -> Result<&mut [u8], NoHeadroom> {
        if n > self.headroom() {
            return Err(NoHeadroom);
        }
        self.note_write();
        let offload = self.inner.offload();
        self.inner.prepend(n)?;
        if self.defect == Defect::PushKeepsOffload {
            self.inner.set_offload(offload);
        }
        Ok(&mut self.inner.head_mut()[..n])
    }

    fn trim_front(&mut self, n: usize) -> Result<(), TooShort> {
        self.trimmed = true;
        self.inner.trim_front(n)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), NoTailroom> {
        if self.defect == Defect::AppendLosesByte
            && let Some((last, rest)) = bytes.split_last()
        {
            self.inner.append(rest)?;
            return self.inner.append(&[!last]);
        }
        self.inner.append(bytes)
    }

    fn truncate(&mut self, len: usize) {
        self.inner.truncate(len);
    }

    fn offload(&self) -> Offload {
        self.inner.offload()
    }

    fn set_offload(&mut self, offload: Offload) {
        self.inner.set_offload(offload);
    }

    fn share(&mut self) -> Option<Self> {
        let mut copy = Self::new(self.inner.share()?, self.defect);
        copy.copy = true;
        match self.defect {
            Defect::ShareLosesPayload => copy.inner.truncate(copy.inner.head().len().min(256)),
            Defect::ShareWritesThrough => {
                let mut bytes = self.inner.head().to_vec();
                if let Some(first) = bytes.first_mut() {
                    *first = !*first;
                }
                let written = Arc::<AtomicBool>::default();
                copy.written = Some(Arc::clone(&written));
                self.spoiled = Some((written, bytes));
            }
            _ => {}
        }
        Some(copy)
    }
}
