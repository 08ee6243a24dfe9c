namespace Virtbus.Tests.Models;

/// <summary>A guest that changes rings, descriptors, tables and requests while a device reads them: no model fails, hangs, or reaches what is not the guest's.</summary>
public sealed class ChangingMemoryTests(ITestOutputHelper output)
{
    private const int Wanted = 20_000;

    public static TheoryData<string, bool> Queues()
    {
        var all = new TheoryData<string, bool>();
        foreach (var kind in ChangingQueue.Kinds)
        {
            all.Add(kind, false);
            all.Add(kind, true);
        }

        return all;
    }

    [Theory]
    [MemberData(nameof(Queues))]
    public void Memory_that_is_another_at_each_look_harms_nobody(string kind, bool packed)
    {
        using var memory = new ChangingMemory(isFar: true, 1);
        using var queue = new ChangingQueue(kind, packed, memory, 2);
        while (memory.Changes < Wanted)
            queue.Turn();
        memory.CheckMargins();
        output.WriteLine($"{memory.Changes} changes, {queue.Done} requests done, {queue.Broken} rings broken");
        Assert.True(queue is { Done: > 1000, Broken: > 100 }, $"{queue.Done} were done, {queue.Broken} broken");
    }

    [Theory]
    [MemberData(nameof(Queues))]
    public void Memory_that_a_thread_beside_it_writes_harms_nobody(string kind, bool packed)
    {
        using var memory = new ChangingMemory(isFar: false, 1);
        using var queue = new ChangingQueue(kind, packed, memory, 2);
        var isOver = false;
        var writer = new Thread(() =>
        {
            var random = new Random(3);
            while (!Volatile.Read(ref isOver))
            {
                // Of all, and of the ring, where less is more.
                memory.Change(random, 0x1000, ChangingMemory.Size - 0x1000);
                if (random.Next(64) == 0)
                    memory.Change(random, 0, 0x200);
            }
        }) { IsBackground = true };
        writer.Start();
        try
        {
            for (var turns = 0; memory.Changes < Wanted || turns < 5_000; turns++)
                queue.Turn();
        }
        finally
        {
            Volatile.Write(ref isOver, true);
            writer.Ends("to write over memory");
        }

        memory.CheckMargins();
        output.WriteLine($"{memory.Changes} changes, {queue.Done} requests done, {queue.Broken} rings broken");
        Assert.True(queue.Done > 100, $"{queue.Done} were done");
    }
}
