//! The narrow door between the life of one Envoy and a second Envoy: what the life has to know.

use crate::drain::Ask;

/// How much can be told of what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Visibility {
    /// Envoy tells of all that is in flight.
    Whole,
    /// Envoy does not tell yet what an old Envoy beside it has.
    Partial,
    /// Only the kernel tells: Envoy has lost its admin interface.
    Kernel,
    /// Nobody can be asked now.
    Nothing,
}

/// What the life of one Envoy has to know of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub sight: Visibility,
    /// Whether another Envoy, which drains, has something in flight of its own.
    pub another: bool,
}

impl View {
    /// Whether another Envoy starts beside this one, which cannot be asked meanwhile.
    pub fn is_starting(self) -> bool {
        self.sight == Visibility::Nothing && !self.another
    }

    /// Whether Envoy's admin interface is there to be asked.
    pub fn can_be_asked(self) -> bool {
        matches!(self.sight, Visibility::Whole | Visibility::Partial)
    }

    /// Whether Envoy's answers tell of all that is in flight.
    pub fn knows_all(self) -> bool {
        matches!(self.sight, Visibility::Whole | Visibility::Kernel)
    }

    /// The question that tells what is open.
    pub fn figures(self) -> Ask {
        match self.sight {
            Visibility::Kernel => Ask::Sockets,
            _ => Ask::Stats,
        }
    }
}
