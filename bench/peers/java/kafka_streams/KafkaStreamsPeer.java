import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams, two threads. Counts are kept by day and outcome type; a reader adds up windows.
 *
 * <p>--mode dsl: identities in a persistent store, customers by their key, the other groupings
 * through a repartition topic. local: one processor per partition with stores of its own and no
 * repartition; a reader adds up the partitions. Both count at least once; dsl-eos and local-eos
 * exactly once.
 */
public final class KafkaStreamsPeer {
  private static final AtomicLong CUSTOMER_EVENTS = new AtomicLong();

  /** Tiles of actions, treatments and channels: three for each event. */
  private static final AtomicLong GROUP_EVENTS = new AtomicLong();

  private static final byte[] ONE = {1};
  private static final Serde<byte[]> BYTES = Serdes.ByteArray();
  private static final Serde<Event> EVENTS =
      Serdes.serdeFrom(
          (topic, event) -> {
            throw new IllegalStateException("events are only read");
          },
          (topic, value) -> Event.parse(value));

  private KafkaStreamsPeer() {}

  /** Passes on the events whose identity is new. */
  private static final class Distinct implements FixedKeyProcessor<String, Event, Event> {
    private FixedKeyProcessorContext<String, Event> context;
    private KeyValueStore<String, Long> seen;

    @Override
    public void init(FixedKeyProcessorContext<String, Event> context) {
      this.context = context;
      seen = context.getStateStore("seen");
    }

    @Override
    public void process(FixedKeyRecord<String, Event> record) {
      if (seen.putIfAbsent(record.value().id, record.timestamp()) == null) {
        context.forward(record);
      }
    }
  }

  /** Counts the events of one partition in stores of its own. */
  private static final class LocalCounts implements Processor<String, Event, Void, Void> {
    private KeyValueStore<String, Long> seen;
    private KeyValueStore<String, Long> groups;
    private KeyValueStore<String, byte[]> customers;

    @Override
    public void init(ProcessorContext<Void, Void> context) {
      seen = context.getStateStore("seen");
      groups = context.getStateStore("groups");
      customers = context.getStateStore("customers");
    }

    @Override
    public void process(Record<String, Event> record) {
      Event event = record.value();
      if (seen.putIfAbsent(event.id, record.timestamp()) != null) {
        return;
      }
      add(event.actionKey());
      add(event.treatmentKey());
      add(event.channelKey());
      customers.put(event.customer, CustomerRecord.add(customers.get(event.customer), event));
      CUSTOMER_EVENTS.incrementAndGet();
      if (GROUP_EVENTS.addAndGet(3) * 2 >= 3 * Options.distinct) {
        Reports.half();
      }
    }

    private void add(String tile) {
      Long events = groups.get(tile);
      groups.put(tile, events == null ? 1L : events + 1);
    }
  }

  private static StreamsBuilder topology(boolean dsl) {
    StreamsBuilder builder = new StreamsBuilder();
    builder.addStateStore(store("seen", Serdes.Long()));
    KStream<String, Event> events =
        builder.stream(Options.get("topic"), Consumed.with(Serdes.String(), EVENTS));
    if (dsl) {
      addDsl(events);
    } else {
      builder.addStateStore(store("groups", Serdes.Long()).withCachingEnabled());
      builder.addStateStore(store("customers", BYTES).withCachingEnabled());
      events.process(LocalCounts::new, "seen", "groups", "customers");
    }
    return builder;
  }

  private static <V> StoreBuilder<KeyValueStore<String, V>> store(String name, Serde<V> serde) {
    return Stores.keyValueStoreBuilder(
        Stores.persistentKeyValueStore(name), Serdes.String(), serde);
  }

  private static void addDsl(KStream<String, Event> events) {
    KStream<String, Event> distinct = events.processValues(Distinct::new, "seen");
    distinct
        .groupByKey(Grouped.with(Serdes.String(), EVENTS))
        .aggregate(
            () -> (byte[]) null,
            (customer, event, record) -> {
              CUSTOMER_EVENTS.incrementAndGet();
              return CustomerRecord.add(record, event);
            },
            Materialized.<String, byte[], KeyValueStore<Bytes, byte[]>>as("customers")
                .withKeySerde(Serdes.String())
                .withValueSerde(BYTES));
    distinct
        .flatMap(
            (customer, event) ->
                List.of(
                    KeyValue.pair(event.actionKey(), ONE),
                    KeyValue.pair(event.treatmentKey(), ONE),
                    KeyValue.pair(event.channelKey(), ONE)))
        .groupByKey(Grouped.with("by", Serdes.String(), BYTES))
        .aggregate(
            () -> 0L,
            (tile, one, counted) -> {
              if (GROUP_EVENTS.incrementAndGet() * 2 >= 3 * Options.distinct) {
                Reports.half();
              }
              return counted + 1;
            },
            Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("groups")
                .withKeySerde(Serdes.String())
                .withValueSerde(Serdes.Long()));
  }

  private static Properties settings(String application, boolean exactlyOnce) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, application);
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, Options.get("bootstrap"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, Options.get("folder"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    settings.put(
        StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
        exactlyOnce ? StreamsConfig.EXACTLY_ONCE_V2 : StreamsConfig.AT_LEAST_ONCE);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 128L << 20);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.TOPOLOGY_OPTIMIZATION_CONFIG, StreamsConfig.OPTIMIZE);
    settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 262_144);
    return settings;
  }

  private static void waitUntilCounted() throws InterruptedException {
    while (GROUP_EVENTS.get() < 3 * Options.distinct || CUSTOMER_EVENTS.get() < Options.distinct) {
      Thread.sleep(2);
    }
    Reports.send("DONE");
  }

  private static void waitUntilCommitted(String application) throws Exception {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", Options.get("bootstrap")))) {
      long committed = 0;
      while (committed < Options.events) {
        Thread.sleep(10);
        committed = 0;
        Map<TopicPartition, OffsetAndMetadata> offsets =
            admin.listConsumerGroupOffsets(application).partitionsToOffsetAndMetadata().get();
        for (Map.Entry<TopicPartition, OffsetAndMetadata> offset : offsets.entrySet()) {
          boolean ours = offset.getKey().topic().equals(Options.get("topic"));
          committed += ours && offset.getValue() != null ? offset.getValue().offset() : 0;
        }
      }
    }
    Reports.send("ALL");
  }

  private static void answer(KafkaStreams streams) throws Exception {
    Cells cells = new Cells();
    try (KeyValueIterator<String, Long> tiles = KafkaStreamsPeer.<Long>all(streams, "groups")) {
      tiles.forEachRemaining(tile -> cells.addTile(tile.key, tile.value));
    }
    try (KeyValueIterator<String, byte[]> all =
        KafkaStreamsPeer.<byte[]>all(streams, "customers")) {
      all.forEachRemaining(customer -> cells.addCustomer(customer.key, customer.value));
    }
    cells.write();
  }

  private static <V> KeyValueIterator<String, V> all(KafkaStreams streams, String store) {
    return streams
        .store(
            StoreQueryParameters.fromNameAndType(
                store, QueryableStoreTypes.<String, V>keyValueStore()))
        .all();
  }

  public static void main(String[] arguments) throws Exception {
    Options.parse(arguments);
    String mode = Options.get("mode");
    boolean exactlyOnce = mode.endsWith("eos");
    String application = "kafka-streams-" + mode + "-" + System.nanoTime();
    Properties settings = settings(application, exactlyOnce);
    StreamsBuilder topology = topology(mode.startsWith("dsl"));
    try (KafkaStreams streams = new KafkaStreams(topology.build(settings), settings)) {
      streams.setUncaughtExceptionHandler(
          error -> {
            error.printStackTrace();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
          });
      streams.start();
      waitUntilCounted();
      if (GROUP_EVENTS.get() > 3 * Options.distinct) {
        Reports.send("NOTE counted " + GROUP_EVENTS.get() + " of " + 3 * Options.distinct);
      }
      if (exactlyOnce) {
        waitUntilCommitted(application);
      }
      answer(streams);
      streams.close(Duration.ofSeconds(20));
    }
    System.exit(0);
  }
}
