using Virtbus.Transports.VfioUser;
using static Virtbus.Wire.VfioUser.VfioUserCommand;
using static Virtbus.Tests.WireClient;
using static Virtbus.Tests.WireMessages;

namespace Virtbus.Tests.Transports.VfioUser;

[Collection(WireCollection.Name)]
public sealed class VfioUserFuzzTests
{
    private const int Mutations = 100_000;

    private static readonly ulong[] Edges = [0, 1, 0xfff, 0x1000, ulong.MaxValue, ulong.MaxValue - 4095, 1UL << 63, uint.MaxValue, 1 << 20, Base, MemorySize];

    [Fact]
    public void A_100_000_mutated_messages_neither_crash_nor_leak_and_another_device_does_not_notice()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 4711;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        using var bystander = new WireFixture();
        using var witness = bystander.Connect();
        using var fixture = new WireFixture(new VfioUserServerOptions { AnswerTimeout = TimeSpan.FromMilliseconds(20) });
        using (var warmUp = new WireClient(fixture.Socket))
        {
            warmUp.Greet();
            warmUp.ReadRegister(0, 0);
        }

        fixture.WaitIdle(1);
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        var mutated = 0;
        var sessions = 1L;
        var bytes = new byte[8];
        while (mutated < Mutations)
        {
            using var client = new WireClient(fixture.Socket) { DrainsWhenFull = true };
            sessions++;
            mutated += Session(client, random);
            BitConverter.TryWriteBytes(bytes, sessions);
            Assert.True(witness.TryWrite(0, 0x100, bytes, out _));
            Assert.True(witness.TryRead(0, 0x100, bytes, out _));
            Assert.Equal(sessions, BitConverter.ToInt64(bytes));
        }

        fixture.WaitIdle(sessions);
        Assert.Equal(0, fixture.Log.Count(1107));
        using (var next = new WireClient(fixture.Socket))
        {
            next.Greet();
            next.ReadRegister(0, 0);
        }

        fixture.WaitIdle(sessions + 1);
        Assert.Equal((descriptors, mappings), (Kernel.Descriptors, Kernel.Mappings));
        TestContext.Current.TestOutputHelper?.WriteLine($"{mutated} mutated messages in {sessions} sessions, {fixture.Server.BadMessages} refused");
        Assert.InRange(fixture.Server.BadMessages, 10_000, long.MaxValue);
        Assert.Equal(0, bystander.Server.BadMessages);
    }

    /// <summary>Good messages in between, so that what lies behind a good set-up is reached too; then more rounds on the same session.</summary>
    private static int Session(WireClient client, Random random)
    {
        var messages = QemuRecording.Start(random.Next(2) == 0).SelectMany(step => step).Concat(Others()).ToArray();
        var mutated = 0;
        var mutateOneIn = random.Next(2, 8);
        for (var round = 0; round < 6; round++)
        {
            for (var at = round == 0 ? 0 : 1; at < messages.Length; at++)
            {
                // In their order at first, then as they come.
                var message = messages[round == 0 ? at : random.Next(1, messages.Length)];
                var bytes = Message(message.Command, message.Payload, message.Flags, (ushort)random.Next(8));
                var copies = 1;
                if ((round > 0 || at > 0) && random.Next(mutateOneIn) == 0)
                {
                    mutated++;
                    bytes = Mutate(bytes, random, ref copies);
                }

                if (!Send(client, bytes, message.Descriptor, copies))
                    return mutated;
            }

            client.Drain();
        }

        return mutated;
    }

    private static IEnumerable<QemuMessage> Others()
    {
        yield return new(DEVICE_GET_REGION_IO_FDS, Words(96, 0, 0, 0));
        yield return new(DEVICE_FEATURE, Words(16, 0x10001));
        yield return new(DEVICE_FEATURE, [.. Words(40, 0x20006), .. Longs(4096, 1, 0, 1 << 20)]);
        yield return new(REGION_WRITE, Access(0, WireDevice.DmaAddress, 8, Longs(0x1000)));
        yield return new(REGION_WRITE, Access(0, WireDevice.DmaLength, 4, Words(64)));
        yield return new(REGION_WRITE, Access(0, WireDevice.DmaCommand, 4, Words(WireDevice.ReadThere)));
        yield return new(DMA_READ, [.. Longs(0x1000, 64), .. new byte[64]], Flags: 1);
        yield return new(DEVICE_FEATURE, [.. Words(40, 0x10008), .. Longs(0, 1 << 16, 4096)]);
        yield return new(DMA_UNMAP, [.. Unmap(0, 0x20000, 1, 48), .. Longs(4096, 8)]);
        yield return new(DEVICE_FEATURE, Words(8, 0x20007));
        yield return new(DEVICE_FEATURE, [.. Words(16, 0x20002), .. Longs(3)]);
        yield return new(MIG_DATA_READ, Words(4104, 4096));
        yield return new(DEVICE_FEATURE, [.. Words(16, 0x20002), .. Longs(4)]);
        yield return new(MIG_DATA_WRITE, [.. Words(108, 100), .. new byte[100]]);
        yield return new(DEVICE_FEATURE, [.. Words(16, 0x20002), .. Longs(2)]);
        yield return new(DEVICE_SET_IRQS, Irqs(0x22, 2, 0, 4, 1, 0, 1, 1));
        yield return new(DMA_UNMAP, Unmap(0, 0, 2));
        yield return new(DEVICE_RESET, []);
    }

    private static byte[] Mutate(byte[] bytes, Random random, ref int copies)
    {
        switch (random.Next(8))
        {
            case 0:
                // A wrong number of descriptors.
                copies = random.Next(2) * 2;
                return bytes;
            case 1 when random.Next(8) == 0:
                // Cut short: what follows is read as the rest.
                return bytes[..random.Next(1, bytes.Length)];
            case 2 when random.Next(8) == 0:
                // The header: id, command, size, flags, error.
                bytes[random.Next(16)] ^= (byte)(1 << random.Next(8));
                return bytes;
            case 3 when bytes.Length > 16:
                // A payload that is longer or shorter than the command's, with a header that says so.
                var size = random.Next(16, bytes.Length + 40);
                Array.Resize(ref bytes, size);
                BitConverter.TryWriteBytes(bytes.AsSpan(4), size);
                return bytes;
            case 4 or 5 when bytes.Length >= 24:
                // A number that lies at the edge.
                var wide = random.Next(2) == 0;
                var at = 16 + ((wide ? 8 : 4) * random.Next((bytes.Length - 16) / (wide ? 8 : 4)));
                var edge = Edges[random.Next(Edges.Length)];
                if (wide)
                    BitConverter.TryWriteBytes(bytes.AsSpan(at), edge);
                else
                    BitConverter.TryWriteBytes(bytes.AsSpan(at), (uint)edge);
                return bytes;
            default:
                if (bytes.Length > 16)
                    bytes[random.Next(16, bytes.Length)] = (byte)random.Next(256);
                else
                    bytes[2] = (byte)random.Next(20);
                return bytes;
        }
    }

    private static bool Send(WireClient client, byte[] bytes, QemuDescriptor kind, int copies)
    {
        if (kind == QemuDescriptor.None)
            return copies == 2 ? client.SendRaw(bytes, client.Signal.Descriptor) : client.SendRaw(bytes);
        var descriptor = kind == QemuDescriptor.Memory ? client.File : client.Signal.Descriptor;
        return copies switch
        {
            0 => client.SendRaw(bytes),
            1 => client.SendRaw(bytes, descriptor),
            _ => client.SendRaw(bytes, descriptor, descriptor),
        };
    }
}
