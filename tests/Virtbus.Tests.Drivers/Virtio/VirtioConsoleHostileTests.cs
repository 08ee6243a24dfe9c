using Virtbus.Core;
using Virtbus.Drivers.VirtioConsole;
using Virtbus.Platform;
using Virtbus.Subsystems.Tty;

namespace Virtbus.Tests.Drivers.Virtio;

/// <summary>A console whose device answers as it likes, seeded: nothing throws, no byte is lost or doubled before its first lie, and each call ends.</summary>
public sealed class VirtioConsoleHostileTests
{
    private const int Answers = 100_000;
    private const int RingSize = 32;
    private const int SlotSize = 512;

    [Theory]
    [InlineData(RingSize)]
    [InlineData(4)]
    public async Task Mutated_answers_are_text_or_break_the_queue(int ringSize)
    {
        await using var rig = await FabricRig.StartAsync();
        await rig.InitModuleAsync(new VirtioConsoleModule(), VirtioRig.Console);
        var parent = await rig.Fabric.RegisterAsync(new Device("card"));
        var random = new Random(20_261_130);
        var text = new byte[2000];
        random.NextBytes(text);
        var (answers, broken, clean, refused, empty) = (0, 0, 0L, 0, 0);
        while (answers < Answers)
        {
            var console = await HandConsole.AddAsync(rig, parent, ringSize: ringSize);
            var queues = console.Transport.Queues;
            // What is on its way in each direction, as long as the device was honest.
            var (coming, going) = (new Queue<byte>(), new Queue<byte>());
            var isHonest = true;
            using (var user = console.Line.Open("test"))
            {
                for (var turn = 0; turn < 2000 && !(queues[0].IsBroken && queues[1].IsBroken); turn++)
                {
                    var queue = random.Next(2);
                    if (console.TryNext(queue, out _, out _, out _))
                    {
                        answers++;
                        if (random.Next(100) == 0)
                        {
                            isHonest = false;
                            Lie(console, queue, random);
                        }
                        else if (queue == HandConsole.Output)
                        {
                            foreach (var value in console.Take())
                                Assert.True(!isHonest || (going.TryDequeue(out var expected) && expected == value), "another byte went out");
                        }
                        else
                        {
                            var sent = text.AsSpan(random.Next(1000), random.Next(4) == 0 ? 0 : random.Next(1, SlotSize + 1));
                            empty += sent.IsEmpty ? 1 : 0;
                            console.TrySend(sent);
                            foreach (var value in sent)
                                coming.Enqueue(value);
                        }
                    }

                    if (random.Next(2) == 0)
                        console.Interrupt(queue);
                    if (random.Next(2) == 0)
                        clean += Read(user, random, coming, isHonest);
                    if (random.Next(2) != 0)
                        continue;
                    var source = text.AsSpan(random.Next(1000), random.Next(1, 1000));
                    var count = user.Write(source, TimeSpan.Zero, out var fault);
                    Assert.InRange(count, 0, source.Length);
                    Assert.Equal(count == source.Length, fault == Fault.None);
                    Assert.Contains(fault.Errno, (Errno[])[Errno.None, Errno.EAGAIN, Errno.EIO]);
                    Assert.True(!isHonest || fault.Errno != Errno.EIO, "an honest device is called broken");
                    refused += fault.Errno == Errno.EAGAIN ? 1 : 0;
                    foreach (var value in source[..count])
                        going.Enqueue(value);
                }

                broken += queues[0].IsBroken || queues[1].IsBroken ? 1 : 0;
            }

            await rig.Virtio.RemoveAsync(console.Device).In();
            Assert.Equal(0, console.Port.Faults);
            foreach (var queue in queues)
                queue.Dispose();
        }

        Assert.True(broken > 100, $"{broken} broken");
        Assert.True(clean > 100_000 && refused > 100 && empty > 1000, $"{clean} bytes, {refused} refused, {empty} empty");
    }

    private static int Read(TtyUser user, Random random, Queue<byte> coming, bool isHonest)
    {
        Span<byte> bytes = stackalloc byte[random.Next(1, 1000)];
        var count = user.Read(bytes, TimeSpan.Zero, out var fault);
        Assert.InRange(count, 0, bytes.Length);
        Assert.Equal(count > 0, fault == Fault.None);
        Assert.Contains(fault.Errno, (Errno[])[Errno.None, Errno.EAGAIN, Errno.EIO]);
        if (!isHonest)
            return 0;
        Assert.NotEqual(Errno.EIO, fault.Errno);
        foreach (var value in bytes[..count])
            Assert.True(coming.TryDequeue(out var expected) && expected == value, "another byte came");
        return count;
    }

    private static void Lie(HandConsole console, int queue, Random random)
    {
        console.TryNext(queue, out var head, out _, out var length);
        switch (random.Next(4))
        {
            case 0:
                console.Use(queue, (uint)random.Next(random.Next(2) == 0 ? 64 : int.MaxValue), 0);
                break;
            case 1:
                console.Use(queue, head, (uint)random.Next());
                break;
            case 2:
                // More than it wrote.
                console.Use(queue, head, queue == HandConsole.Input ? (uint)random.Next((int)length + 1) : 0);
                break;
            default:
                console.Announce(queue, (ushort)random.Next());
                break;
        }
    }
}
