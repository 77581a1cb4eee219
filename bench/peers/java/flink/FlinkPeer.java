import java.util.concurrent.atomic.AtomicLong;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.util.Collector;

/**
 * Flink on a cluster in this process, parallelism 2, checkpoints every second, exactly once.
 *
 * <p>Events are keyed by customer, whose state has identities and a record; tiles are then keyed by
 * group, day and outcome type. Flink answers no queries from its state: at the end of the input
 * each key emits it, from which the cells are computed. --mode heap or rocksdb.
 */
public final class FlinkPeer {
  private static final AtomicLong CUSTOMER_EVENTS = new AtomicLong();

  /** Tiles of actions, treatments and channels: three for each event. */
  private static final AtomicLong GROUP_EVENTS = new AtomicLong();

  /** A timer of event time that fires at the end of the input only. */
  private static final long END_OF_INPUT = Long.MAX_VALUE - 1;

  private static Cells cells;

  private FlinkPeer() {}

  private static void reportIfDone() {
    if (CUSTOMER_EVENTS.get() >= Options.distinct && GROUP_EVENTS.get() >= 3 * Options.distinct) {
      Reports.send("DONE");
    }
  }

  /** Counts the events of a customer and passes on the keys of their tiles. */
  public static final class CustomerFunction extends KeyedProcessFunction<String, Event, String> {
    private transient MapState<String, Long> seen;
    private transient ValueState<byte[]> record;

    @Override
    public void open(Configuration configuration) {
      seen =
          getRuntimeContext()
              .getMapState(new MapStateDescriptor<>("seen", String.class, Long.class));
      record = getRuntimeContext().getState(new ValueStateDescriptor<>("record", byte[].class));
    }

    @Override
    public void processElement(Event event, Context context, Collector<String> tiles)
        throws Exception {
      if (seen.contains(event.id)) {
        return;
      }
      seen.put(event.id, System.currentTimeMillis());
      byte[] known = record.value();
      if (known == null) {
        context.timerService().registerEventTimeTimer(END_OF_INPUT);
      }
      record.update(CustomerRecord.add(known, event));
      tiles.collect(event.actionKey());
      tiles.collect(event.treatmentKey());
      tiles.collect(event.channelKey());
      long counted = CUSTOMER_EVENTS.incrementAndGet();
      if (counted * 2 >= Options.distinct) {
        Reports.half();
      }
      if (counted == Options.distinct) {
        reportIfDone();
      }
    }

    @Override
    public void onTimer(long timestamp, OnTimerContext context, Collector<String> tiles)
        throws Exception {
      cells.addCustomer(context.getCurrentKey(), record.value());
    }
  }

  /** Counts the events of a tile. */
  public static final class TileFunction extends KeyedProcessFunction<String, String, Long> {
    private transient ValueState<Long> events;

    @Override
    public void open(Configuration configuration) {
      events = getRuntimeContext().getState(new ValueStateDescriptor<>("events", Long.class));
    }

    @Override
    public void processElement(String tile, Context context, Collector<Long> output)
        throws Exception {
      Long known = events.value();
      if (known == null) {
        context.timerService().registerEventTimeTimer(END_OF_INPUT);
      }
      events.update(known == null ? 1 : known + 1);
      if (GROUP_EVENTS.incrementAndGet() == 3 * Options.distinct) {
        reportIfDone();
      }
    }

    @Override
    public void onTimer(long timestamp, OnTimerContext context, Collector<Long> output)
        throws Exception {
      cells.addTile(context.getCurrentKey(), events.value());
    }
  }

  /** Parses events. */
  public static final class EventSchema implements DeserializationSchema<Event> {
    @Override
    public Event deserialize(byte[] value) {
      return Event.parse(value);
    }

    @Override
    public boolean isEndOfStream(Event event) {
      return false;
    }

    @Override
    public TypeInformation<Event> getProducedType() {
      return Types.POJO(Event.class);
    }
  }

  private static Configuration configuration(boolean rocksdb) {
    String folder = Options.get("folder");
    Configuration settings = new Configuration();
    settings.setString("state.backend.type", rocksdb ? "rocksdb" : "hashmap");
    settings.setString("execution.checkpointing.dir", "file://" + folder + "/checkpoints");
    settings.setString("execution.checkpointing.incremental", String.valueOf(rocksdb));
    settings.setString("pipeline.object-reuse", "true");
    settings.setString("taskmanager.memory.managed.size", "512m");
    settings.setString("taskmanager.numberOfTaskSlots", "2");
    settings.setString("rest.port", "0");
    settings.setString("rest.bind-address", "127.0.0.1");
    settings.setString("state.backend.rocksdb.localdir", folder + "/rocksdb");
    return settings;
  }

  private static KafkaSource<Event> source() {
    return KafkaSource.<Event>builder()
        .setBootstrapServers(Options.get("bootstrap"))
        .setTopics(Options.get("topic"))
        .setGroupId("flink-" + System.nanoTime())
        .setStartingOffsets(OffsetsInitializer.earliest())
        .setBounded(OffsetsInitializer.latest())
        .setValueOnlyDeserializer(new EventSchema())
        .setProperty("isolation.level", "read_committed")
        .build();
  }

  public static void main(String[] arguments) throws Exception {
    Options.parse(arguments);
    cells = new Cells();
    StreamExecutionEnvironment environment =
        StreamExecutionEnvironment.createLocalEnvironment(
            2, configuration(Options.get("mode").equals("rocksdb")));
    environment.enableCheckpointing(1000, CheckpointingMode.EXACTLY_ONCE);
    environment
        .fromSource(source(), WatermarkStrategy.noWatermarks(), "events", Types.POJO(Event.class))
        .keyBy((Event event) -> event.customer, Types.STRING)
        .process(new CustomerFunction(), Types.STRING)
        .keyBy((String tile) -> tile, Types.STRING)
        .process(new TileFunction(), Types.LONG)
        .sinkTo(new DiscardingSink<>());
    environment.execute("peer");
    cells.write();
    System.exit(0);
  }
}
