using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Transports.VhostUser;

public class VhostUserFuzzTests
{
    private const int Mutations = 100_000;

    [Fact]
    public void A_100_000_mutated_messages_and_rings_neither_crash_nor_leak()
    {
        var seed = Environment.GetEnvironmentVariable("VIRTBUS_SEED") is { } text ? unchecked((int)ulong.Parse(text)) : 4711;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        var random = new Random(seed);
        using var fixture = new VhostUserFixture();
        using (var warmUp = new FrontEnd(fixture.Socket))
        {
            warmUp.Connect();
            warmUp.ReadSector(0);
        }

        fixture.WaitIdle(1);
        int descriptors = Kernel.DescriptorsBefore(), mappings = Kernel.Mappings;
        var mutated = 0;
        var sessions = 1L;
        while (mutated < Mutations)
        {
            using var front = new FrontEnd(fixture.Socket);
            sessions++;
            mutated += Session(front, random);
        }

        fixture.WaitIdle(sessions);
        Assert.Equal(0, fixture.Log.Count(1007));
        using (var next = new FrontEnd(fixture.Socket))
        {
            next.Connect();
            next.ReadSector(0);
        }

        fixture.WaitIdle(sessions + 1);
        Assert.Equal(descriptors, Kernel.Descriptors);
        Assert.Equal(mappings, Kernel.Mappings);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{mutated} mutated messages in {sessions} sessions, {fixture.Server.BadMessages} refused, queue 0: {fixture.Server.GetQueueCounters(0)}");
        Assert.True(fixture.Server.BadMessages > 1000);
        Assert.True(fixture.Server.GetQueueCounters(0).Requests > 100);
    }

    private static int Session(FrontEnd front, Random random)
    {
        var sequence = random.Next(3) switch
        {
            0 => SeedSequences.Libblkio(front),
            1 => SeedSequences.Qemu(front),
            _ => SeedSequences.Dpdk(front),
        };
        FillRing(front, random);
        var mutated = 0;
        // Good messages in between, so that what lies behind a good set-up is reached too; then more rounds on the same session.
        var mutateOneIn = random.Next(2, 8);
        for (var round = 0; round < 10; round++)
        {
            foreach (var message in sequence)
            {
                if (random.Next(mutateOneIn) != 0)
                {
                    if (!Send(front, FrontEnd.Message(message.Request, message.Payload, message.Flags), message.Descriptor, 1))
                        return mutated;
                    continue;
                }

                mutated++;
                var bytes = FrontEnd.Message(message.Request, message.Payload, message.Flags | 8);
                var copies = 1;
                bytes = Mutate(bytes, random, ref copies);
                if (!Send(front, bytes, message.Descriptor, copies))
                    return mutated;
            }

            front.Kick.Signal();
            front.Drain();
            FillRing(front, random);
        }

        return mutated;
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
                // The header: request, flags, size.
                bytes[random.Next(12)] ^= (byte)(1 << random.Next(8));
                return bytes;
            case 3 when bytes.Length > 12:
                // A number that lies at the edge.
                ulong[] edges = [0, 1, ulong.MaxValue, ulong.MaxValue - 4095, 1UL << 63, FrontEnd.UserBase, FrontEnd.GuestBase + FrontEnd.MemorySize];
                var at = 12 + (8 * random.Next(Math.Max(1, (bytes.Length - 12) / 8)));
                if (at + 8 <= bytes.Length)
                    BitConverter.TryWriteBytes(bytes.AsSpan(at), edges[random.Next(edges.Length)]);
                return bytes;
            default:
                if (bytes.Length > 12)
                    bytes[random.Next(12, bytes.Length)] = (byte)random.Next(256);
                else
                    bytes[0] = (byte)random.Next(1, 45);
                return bytes;
        }
    }

    private static bool Send(FrontEnd front, byte[] bytes, SeedDescriptor kind, int copies)
    {
        if (kind == SeedDescriptor.None)
            return copies == 2 ? front.SendRaw(bytes, front.Kick.Descriptor) : front.SendRaw(bytes);
        var descriptor = kind switch
        {
            SeedDescriptor.Memory => front.File,
            SeedDescriptor.Kick => front.Kick.Descriptor,
            _ => front.Call.Descriptor,
        };
        return copies switch
        {
            0 => front.SendRaw(bytes),
            1 => front.SendRaw(bytes, descriptor),
            _ => front.SendRaw(bytes, descriptor, descriptor),
        };
    }

    private static void FillRing(FrontEnd front, Random random)
    {
        front.Memory.Write(FrontEnd.HeaderAt, FrontEnd.Numbers((ulong)random.Next(12), (ulong)random.Next(3000)));
        front.ClearRing();
        for (var i = random.Next(1, 5); i > 0; i--)
            front.Ring.Add([FrontEnd.Buffer(FrontEnd.HeaderAt, 16, false), FrontEnd.Buffer(FrontEnd.DataAt, 512, true), FrontEnd.Buffer(FrontEnd.StatusAt, 1, true)]);
        if (random.Next(4) == 0)
        {
            front.SplitRing.Writer.WriteDescriptor(
                random.Next(FrontEnd.RingSize),
                new Iova(random.Next(2) == 0 ? (ulong)random.NextInt64() : FrontEnd.GuestBase + (ulong)random.Next((int)FrontEnd.MemorySize)),
                (uint)random.Next(),
                (ushort)random.Next(8),
                (ushort)random.Next(FrontEnd.RingSize + 2));
        }

        front.Ring.Publish();
    }
}
