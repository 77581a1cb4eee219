import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/**
 * State of a customer, as bytes: the number of tiles (u16), tiles (day u16, outcome u8, events
 * u32), then actions (length u8, id, last day u16).
 */
final class CustomerRecord {
  static final int TILES_AT = 2;
  static final int TILE_BYTES = 7;

  /** Bytes of an action beside its id. */
  static final int ACTION_BYTES = 3;

  private CustomerRecord() {}

  /** Returns the record with one more event; `record` is null for a new customer. */
  static byte[] add(byte[] record, Event event) {
    byte[] action = event.action.getBytes(StandardCharsets.UTF_8);
    byte[] old = record == null ? new byte[TILES_AT] : record;
    int tilesEnd = tilesEnd(old);
    int tile = findTile(old, tilesEnd, event);
    int known = findAction(old, tilesEnd, action);
    int moved = tile < 0 ? TILE_BYTES : 0;
    byte[] grown = new byte[old.length + moved + (known < 0 ? ACTION_BYTES + action.length : 0)];
    System.arraycopy(old, 0, grown, 0, tilesEnd);
    System.arraycopy(old, tilesEnd, grown, tilesEnd + moved, old.length - tilesEnd);
    if (tile < 0) {
      putU16(grown, 0, u16(old, 0) + 1);
      putU16(grown, tilesEnd, event.day);
      grown[tilesEnd + 2] = (byte) event.outcome;
      putU32(grown, tilesEnd + 3, 1);
    } else {
      putU32(grown, tile + 3, u32(grown, tile + 3) + 1);
    }
    if (known < 0) {
      int at = old.length + moved;
      grown[at] = (byte) action.length;
      System.arraycopy(action, 0, grown, at + 1, action.length);
      putU16(grown, at + 1 + action.length, event.day);
    } else {
      int at = known + moved + 1 + action.length;
      putU16(grown, at, Math.max(event.day, u16(grown, at)));
    }
    return grown;
  }

  /** Returns the index after the last tile. */
  static int tilesEnd(byte[] record) {
    return TILES_AT + TILE_BYTES * u16(record, 0);
  }

  private static int findTile(byte[] record, int tilesEnd, Event event) {
    for (int at = TILES_AT; at < tilesEnd; at += TILE_BYTES) {
      if (u16(record, at) == event.day && record[at + 2] == event.outcome) {
        return at;
      }
    }
    return -1;
  }

  private static int findAction(byte[] record, int tilesEnd, byte[] action) {
    for (int at = tilesEnd; at < record.length; at += ACTION_BYTES + record[at]) {
      int end = at + 1 + record[at];
      if (Arrays.equals(record, at + 1, end, action, 0, action.length)) {
        return at;
      }
    }
    return -1;
  }

  static int u16(byte[] bytes, int at) {
    return (bytes[at] & 255) << 8 | bytes[at + 1] & 255;
  }

  static int u32(byte[] bytes, int at) {
    return u16(bytes, at) << 16 | u16(bytes, at + 2);
  }

  private static void putU16(byte[] bytes, int at, int value) {
    bytes[at] = (byte) (value >> 8);
    bytes[at + 1] = (byte) value;
  }

  private static void putU32(byte[] bytes, int at, int value) {
    putU16(bytes, at, value >>> 16);
    putU16(bytes, at + 2, value);
  }
}
