using System.Security.Cryptography;
using Virtbus.Platform;
using Virtbus.Remote.Pci.VfioUser;

namespace Virtbus.Tests.Trust;

/// <summary>A user of a virtual function of a merlin adapter.</summary>
internal sealed class NicUser : UserDevice
{
    private const int EventVector = 0;
    private const int FreeMemory = MemorySize / 2;
    private const int CopySize = 0x10000;
    private static readonly TimeSpan Short = TimeSpan.FromMilliseconds(20);
    private readonly uint _station = (uint)RandomNumberGenerator.GetInt32(int.MaxValue);
    private readonly NicDriver _driver;

    public NicUser(VfioUserClient client, bool byMessage)
        : base(client, byMessage) => _driver = new NicDriver(client, Memory, MemoryBase, 0);

    public override IEnumerable<Func<Fault>> SetUp => base.SetUp.Concat(
    [
        () => SetSignals(MsixIndex, Vectors),
        () => _driver.Start(Patience),
        () => _driver.CreateSet(0, 1, Patience),
        () => _driver.CreateSet(1, 2, Patience),
    ]);

    public override void Work(Random random)
    {
        _driver.TakeEvents();
        switch (random.Next(12))
        {
            case 0:
                // Whatever became of it by a reset or a migration.
                if (_driver.Start(Short) == Fault.None && _driver.CreateSet(0, 1, Short) == Fault.None)
                    _driver.CreateSet(1, 2, Short);
                break;
            case 1:
                _driver.DestroySet(random.Next(NicDriver.Sets), Short);
                break;
            case < 4:
                _driver.PostCopy(random.Next(MemorySize), random.Next(FreeMemory, MemorySize), random.Next(1, CopySize));
                break;
            case 4:
                _driver.TryPost((ushort)random.Next(40), (uint)random.Next(4), [(ulong)random.NextInt64(), (ulong)random.Next(0x10000), 1]);
                break;
            default:
                Exchange(random);
                break;
        }
    }

    public override void Check()
    {
        var bytes = RandomNumberGenerator.GetBytes(CopySize);
        Memory.Write(FreeMemory, bytes);
        while (Signals[EventVector].TryRead(out _))
        {
            // Of what was done before.
        }
        Demand(_driver.Copy(FreeMemory, FreeMemory + CopySize, CopySize, Patience));
        DemandSignal(EventVector);
        var read = new byte[CopySize];
        Memory.Read(FreeMemory + CopySize, read);
        Demand(read.AsSpan().SequenceEqual(bytes), "the copy that the function made is none");

        // From each queue set to the other; the first frame goes to all, as nobody knows the address.
        for (var set = 0; set < NicDriver.Sets; set++)
            _driver[set].Offer();
        for (var count = 0; count < 40; count++)
            Send(count % NicDriver.Sets, bytes.AsSpan(count, 60 + (count * 36)));
    }

    private void Send(int from, ReadOnlySpan<byte> payload)
    {
        var to = _driver[1 - from];
        byte[] frame = [.. NicFrame.AddressOf(_station, 1 - from), .. NicFrame.AddressOf(_station, from), .. payload];
        Demand(_driver[from].TryPublish(frame, 20), "there is no room to send");
        _driver[from].Ring();
        // It may be signalled already: for a frame that was sent, too.
        DemandSignal(1 + to.Number);
        byte[] seen = [];
        Demand(Patient.Await(Client, () => TryTake(to, out seen), Patience), "the frame did not arrive");
        Demand(seen.AsSpan().SequenceEqual(frame), "another frame arrived than was sent");
        to.Offer();
    }

    private static bool TryTake(NicQueueSet set, out byte[] frame)
    {
        var isThere = set.TryTake(out var seen);
        frame = isThere ? seen.ToArray() : [];
        return isThere;
    }

    private void Exchange(Random random)
    {
        try
        {
            var set = _driver[random.Next(NicDriver.Sets)];
            while (set.TryTake(out _))
            {
                // Nobody waits for it.
            }
            set.Offer(random.Next(NicQueueSet.Slots));
            var frame = new byte[random.Next(14, NicQueueSet.MaxFrame)];
            random.NextBytes(frame);
            for (var i = random.Next(8); i > 0; i--)
                set.TryPublish(frame, random.Next(1, frame.Length));
            set.Ring();
        }
        catch (DeviceFailure)
        {
            // Expected: the set is none any more, or was cut off in the middle.
        }
    }
}
