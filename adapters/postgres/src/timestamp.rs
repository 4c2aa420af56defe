//! `timestamptz` for [`jiff::Timestamp`].

use jiff::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// Postgres counts microseconds from 2000-01-01T00:00:00Z; this is that moment, counted from 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The first moment that Postgres knows, 4714-11-24 BC. Whatever is earlier is as good as that.
const POSTGRES_MIN_US: i64 = -211_813_488_000_000_000;

/// A moment, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TimestampTz(pub(crate) Timestamp);

impl Type<Postgres> for TimestampTz {
    fn type_info() -> PgTypeInfo {
        // The OID of timestamptz in pg_type.dat; those of built-in types never change.
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl PgHasArrayType for TimestampTz {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1185))
    }
}

impl Encode<'_, Postgres> for TimestampTz {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode((self.0.as_microsecond() - POSTGRES_EPOCH_US).max(POSTGRES_MIN_US), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for TimestampTz {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        // Every statement of this crate is a prepared one, whose results are binary.
        let us = <i64 as Decode<Postgres>>::decode(value)?;
        let us = us.checked_add(POSTGRES_EPOCH_US).ok_or("a timestamp is out of range")?;
        Ok(Self(Timestamp::from_microsecond(us)?))
    }
}
