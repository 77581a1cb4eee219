import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.Serializable;
import java.io.UncheckedIOException;
import java.time.LocalDate;
import java.util.HashMap;
import java.util.Map;

/** The fields of an event that are counted. Public, with an empty constructor: a POJO of Flink. */
public class Event implements Serializable {
  static final String[] OUTCOMES = {
    "impression",
    "not_presented",
    "expired",
    "click",
    "accept",
    "convert",
    "requested_info",
    "dismiss",
    "not_interested",
    "deferred"
  };
  private static final Map<String, Integer> CODES = new HashMap<>();
  private static final JsonFactory JSON = new JsonFactory();
  private static final ThreadLocal<HashMap<String, Integer>> DAYS =
      ThreadLocal.withInitial(HashMap::new);

  static {
    for (int code = 0; code < OUTCOMES.length; code++) {
      CODES.put(OUTCOMES[code], code);
    }
  }

  public String id;
  public String customer;
  public String action;
  public String treatment;
  public String channel;

  /** Index in OUTCOMES. */
  public int outcome;

  /** Days since 1970-01-01, UTC. */
  public int day;

  public Event() {}

  /** Returns the event of a record's value. */
  static Event parse(byte[] value) {
    Reports.first();
    Event event = new Event();
    try (JsonParser parser = JSON.createParser(value)) {
      parser.nextToken();
      while (parser.nextToken() == JsonToken.FIELD_NAME) {
        String field = parser.currentName();
        parser.nextToken();
        switch (field) {
          case "interactionId" -> event.id = parser.getText();
          case "customerId" -> event.customer = parser.getText();
          case "offerId" -> event.action = parser.getText();
          case "creativeId" -> event.treatment = parser.getText();
          case "channelId" -> event.channel = parser.getText();
          case "outcomeTypeKey" -> event.outcome = CODES.get(parser.getText());
          case "timestamp" -> event.day = dayOf(parser.getText().substring(0, 10));
          default -> parser.skipChildren();
        }
      }
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
    return event;
  }

  private static int dayOf(String date) {
    return DAYS.get().computeIfAbsent(date, text -> (int) LocalDate.parse(text).toEpochDay());
  }

  /** Returns the key of the event's tile in one grouping, by the first letter of its name. */
  private String tileKey(char grouping, String group) {
    return grouping + "|" + group + "|" + day + "|" + outcome;
  }

  String actionKey() {
    return tileKey('a', action);
  }

  String treatmentKey() {
    return tileKey('t', treatment);
  }

  String channelKey() {
    return tileKey('c', channel);
  }
}
