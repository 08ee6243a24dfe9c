using Virtbus.Memory;
using Virtbus.Memory.Dma;
using Virtbus.Platform;

namespace Virtbus.Tests.Memory;

public sealed class MappedFilesTests : IDisposable
{
    private const ulong Page = 4096;
    private const int SealWrite = 8, SealFutureWrite = 16;
    private const uint HugePages = 4;

    private readonly MappingBudget _budget = new(1000, 1UL << 44);
    private readonly MappingAccount _account;

    public MappedFilesTests() => _account = new MappingAccount(null, _budget);

    public void Dispose()
    {
        _account.Dispose();
        Assert.Equal((0, 0ul), (_budget.Mappings, _budget.Bytes));
    }

    [Fact]
    public void Maps_of_one_file_cost_one_mapping_and_see_each_others_bytes()
    {
        using var file = MemoryFile.Create("virtbus-test", 1000 * Page);
        using var same = file.Duplicate();
        using var other = new MappingAccount(null, _budget);
        using var space = new IoAddressSpace();
        var before = Kernel.Mappings;
        for (var i = 0ul; i < 1000; i++)
        {
            using var part = Map(i % 2 == 0 ? _account : other, i % 3 == 0 ? file : same, i * Page, Page);
            Assert.True(space.TryMap(new Iova(i * 2 * Page), Page, part, 0, DmaAccess.ReadWrite, out _));
        }

        Assert.Equal((before + 1, 1), (Kernel.Mappings, _budget.Mappings));
        using var all = Map(other, same, 0, 1000 * Page);
        using var map = space.Snapshot();
        Assert.True(map.TryWrite(new Iova(999 * 2 * Page), [42]));
        Assert.Equal(42, ReadByte(all, 999 * Page));
        Assert.Equal(before + 1, Kernel.Mappings);
    }

    [Fact]
    public void Letting_one_of_two_go_keeps_the_other()
    {
        using var file = MemoryFile.Create("virtbus-test", 2 * Page);
        using var other = new MappingAccount(null, _budget);
        var before = Kernel.Mappings;
        var first = Map(_account, file, 0, Page);
        var second = Map(other, file, Page, Page);
        first.Dispose();
        second.Write(0, [7]);
        Assert.Equal(7, ReadByte(second, 0));
        second.Dispose();
        Assert.Equal(before, Kernel.Mappings);
    }

    [Fact]
    public void File_that_grows_costs_few_mappings()
    {
        using var file = MemoryFile.Create("virtbus-test", Page, sealedSize: false);
        var maps = new List<HostMemory>();
        for (var i = 0ul; i < 2000; i++)
        {
            Assert.Equal(0, Libc.ftruncate(file, (long)((i + 1) * Page)));
            maps.Add(Map(_account, file, i * Page, Page));
            maps[^1].Write(0, [(byte)i]);
        }

        Assert.InRange(_budget.Mappings, 2, 12);
        // Addresses that were given away stay what they were.
        Assert.All(maps, (map, i) => Assert.Equal((byte)i, ReadByte(map, 0)));
        maps.ForEach(map => map.Dispose());
    }

    [Fact]
    public void Range_beyond_the_end_of_the_file_is_refused_though_the_mapping_goes_there()
    {
        using var file = MemoryFile.Create("virtbus-test", 2 * Page, sealedSize: false);
        using var whole = Map(_account, file, 0, 2 * Page);
        Assert.Equal(0, Libc.ftruncate(file, (long)Page));
        Assert.False(HostMemory.TryMap(_account, file, Page, Page, DmaAccess.ReadWrite, out _, out var fault));
        Assert.Equal(Errno.ENXIO, fault.Errno);
    }

    [Fact]
    public void Descriptor_that_is_open_for_reading_gets_no_part_in_a_mapping_that_can_be_written()
    {
        using var file = MemoryFile.Create("virtbus-test", Page);
        using var writable = Map(_account, file, 0, Page);
        using var readOnly = FileDescriptor.TryOpen($"/proc/self/fd/{file.Number}", writable: false, out _)!;
        Assert.False(HostMemory.TryMap(_account, readOnly, 0, Page, DmaAccess.ReadWrite, out _, out var fault));
        Assert.Equal(Errno.EACCES, fault.Errno);
        Assert.True(HostMemory.TryMap(_account, readOnly, 0, Page, DmaAccess.Read, out var memory, out _));
        using (memory)
        {
            Assert.NotEqual(writable.Address, memory!.Address);
            Assert.Contains(" r--s ", Kernel.MappingAt(memory.Address), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Seal_against_further_writers_holds_though_there_is_a_mapping_that_can_be_written()
    {
        using var file = new FileDescriptor(Libc.memfd_create("virtbus-test", Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING));
        Assert.Equal(0, Libc.ftruncate(file, (long)Page));
        using var writable = Map(_account, file, 0, Page);
        Assert.Equal(0, Libc.fcntl(file, Libc.F_ADD_SEALS, SealFutureWrite));
        Assert.False(HostMemory.TryMap(_account, file, 0, Page, DmaAccess.ReadWrite, out _, out var fault));
        Assert.Equal(Errno.EACCES, fault.Errno);
    }

    [Theory]
    [InlineData(SealWrite)]
    [InlineData(SealFutureWrite)]
    public void File_that_is_sealed_against_writers_is_mapped_for_reading_and_for_no_writer(int seal)
    {
        using var file = new FileDescriptor(Libc.memfd_create("virtbus-test", Libc.MFD_CLOEXEC | Libc.MFD_ALLOW_SEALING));
        Assert.Equal(0, Libc.ftruncate(file, (long)Page));
        Assert.Equal(0, Libc.fcntl(file, Libc.F_ADD_SEALS, seal));
        Assert.False(HostMemory.TryMap(_account, file, 0, Page, DmaAccess.ReadWrite, out _, out var fault));
        Assert.Equal(Errno.EACCES, fault.Errno);
        Assert.True(HostMemory.TryMap(_account, file, 0, Page, DmaAccess.Read, out var memory, out fault), fault.Message);
        memory!.Dispose();
    }

    [Fact]
    public void Process_leaves_a_quarter_of_what_the_host_lets_it_map_to_the_runtime()
    {
        var most = int.Parse(File.ReadAllText("/proc/sys/vm/max_map_count"), System.Globalization.CultureInfo.InvariantCulture);
        Assert.InRange(MappingBudget.Process.MaxMappings, 1, most - (most / 4));
        // Addresses of a process have 47 bits on the smallest of the processors that this runs on, and are counted when the first is asked for.
        var all = System.Numerics.BitOperations.RoundUpToPowerOf2(MappingBudget.Process.MaxBytes);
        Assert.InRange(MappingBudget.Process.MaxBytes, all / 2, all / 4 * 3);
    }

    [Fact]
    public void Huge_pages_are_a_file_in_memory()
    {
        const uint MFD_HUGETLB = 4;
        var number = Libc.memfd_create("virtbus-test", Libc.MFD_CLOEXEC | MFD_HUGETLB);
        Assert.SkipWhen(number < 0, "the kernel has no huge pages");
        using var file = new FileDescriptor(number);
        Assert.Equal(0, Libc.ftruncate(file, 1 << 30));
        Assert.True(file.IsMemoryFile());
        Assert.True(file.TryGetMemoryStatus(out var status));
        Assert.True(status.CanWrite);
        // With pages in the pool it is mapped; else that is what is missing, and not the kind.
        if (HostMemory.TryMap(_account, file, 0, 1 << 30, DmaAccess.ReadWrite, out var memory, out var fault))
            memory!.Dispose();
        else
            Assert.Equal(Errno.ENOMEM, fault.Errno);
    }

    [Fact]
    public void File_on_a_disk_is_refused_with_what_to_use_instead()
    {
        var path = Path.Combine(AppContext.BaseDirectory, $"virtbus-{Guid.NewGuid()}");
        File.WriteAllBytes(path, new byte[Page]);
        try
        {
            using var file = FileDescriptor.TryOpen(path, writable: true, out _)!;
            Assert.SkipWhen(file.IsMemoryFile(), "the folder of the tests is in memory");
            Assert.False(HostMemory.TryMap(_account, file, 0, Page, DmaAccess.ReadWrite, out _, out var fault));
            Assert.Equal(Errno.EBADF, fault.Errno);
            Assert.Contains("memory-backend-memfd", fault.Message, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Named_file_in_memory_is_mapped()
    {
        var path = $"/dev/shm/virtbus-{Guid.NewGuid()}";
        File.WriteAllBytes(path, new byte[Page]);
        try
        {
            using var file = FileDescriptor.TryOpen(path, writable: true, out _)!;
            using var memory = Map(_account, file, 0, Page);
            memory.Write(5, [1]);
            Assert.Equal(1, File.ReadAllBytes(path)[5]);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void Account_has_its_reserve_however_many_files_another_maps()
    {
        var budget = new MappingBudget(6, 1UL << 40);
        Assert.Equal(1, budget.AccountMappings);
        using var first = new MappingAccount(null, budget);
        using var greedy = new MappingAccount(null, budget);
        Assert.True(first.TryReserve(out _));
        Assert.True(greedy.TryReserve(out _));
        var (maps, fault) = MapAll(greedy);
        // Its reserve, and above it as many as are left then.
        Assert.Equal((3, Errno.ENOSPC), (maps.Count, fault.Errno));
        Assert.Contains("vm.max_map_count", fault.Message, StringComparison.Ordinal);
        Assert.True(TryMapNew(first, Page, out var reserved, out _));

        using var late = new MappingAccount(null, budget);
        using var later = new MappingAccount(null, budget);
        using var last = new MappingAccount(null, budget);
        Assert.True(late.TryReserve(out _));
        Assert.True(later.TryReserve(out _));
        Assert.False(last.TryReserve(out fault));
        Assert.Equal(Errno.ENOSPC, fault.Errno);
        Assert.Contains("vm.max_map_count", fault.Message, StringComparison.Ordinal);
        maps[0].Dispose();
        Assert.True(last.TryReserve(out _));
        maps.Skip(1).ToList().ForEach(map => map.Dispose());
        reserved!.Dispose();
    }

    [Fact]
    public void Greedy_accounts_leave_a_reserve_for_each_that_comes_later_and_more()
    {
        var budget = new MappingBudget(2048 * 16, 1UL << 44);
        var greedy = Enumerable.Range(0, 20).Select(_ => new MappingAccount(null, budget)).ToList();
        Assert.All(greedy, account => Assert.True(account.TryReserve(out _)));
        var first = MapAll(greedy[0]).Maps.Count;
        Assert.InRange(first, 10_000, 16_384);
        var maps = greedy.Skip(1).SelectMany(account => MapAll(account).Maps).ToList();
        Assert.True(maps.Count > 19 * 16, "the others had more than their reserve");
        for (var i = 0; i < 200; i++)
        {
            greedy.Add(new MappingAccount(null, budget));
            Assert.True(greedy[^1].TryReserve(out var fault), fault.Message);
        }

        maps.ForEach(map => map.Dispose());
        greedy.ForEach(account => account.Dispose());
    }

    [Fact]
    public void Account_that_shares_huge_files_leaves_bytes_for_those_that_come_later()
    {
        var budget = new MappingBudget(4096, 1UL << 44);
        using var greedy = new MappingAccount(null, budget);
        Assert.True(greedy.TryReserve(out _));
        var maps = new List<HostMemory>();
        for (var size = 1UL << 44; size >= Page; size /= 2)
        {
            if (TryMapNew(greedy, size, out var memory, out _))
                maps.Add(memory!);
        }

        Assert.True(budget.Bytes <= (1UL << 43), $"{budget.Bytes} of {budget.MaxBytes}");
        using var late = new MappingAccount(null, budget);
        Assert.True(late.TryReserve(out _));
        Assert.True(TryMapNew(late, 1UL << 40, out var more, out var fault), fault.Message);
        maps.ForEach(map => map.Dispose());
        more!.Dispose();
    }

    [Fact]
    public void Account_has_its_bytes_however_large_the_files_of_another_are()
    {
        var budget = new MappingBudget(4096, 1UL << 31);
        using var first = new MappingAccount(null, budget);
        using var greedy = new MappingAccount(null, budget);
        Assert.True(first.TryReserve(out _));
        Assert.Equal(1UL << 20, budget.AccountBytes);
        var maps = new List<HostMemory>();
        var faults = new List<Fault>();
        for (var size = 1UL << 34; size >= Page; size /= 2)
        {
            if (TryMapNew(greedy, size, out var memory, out var fault))
                maps.Add(memory!);
            else
                faults.Add(fault);
        }

        Assert.All(faults, fault => Assert.Equal(Errno.ENOSPC, fault.Errno));
        Assert.Contains("addresses", faults[^1].Message, StringComparison.Ordinal);
        // As many as are left then, but for the eighth that is for reserves.
        Assert.InRange(budget.Bytes, 7UL << 27, (7UL << 27) + (1UL << 21));
        Assert.True(TryMapNew(first, 1UL << 20, out var reserved, out _));
        maps.ForEach(map => map.Dispose());
        reserved!.Dispose();
        Assert.Equal((budget.AccountMappings, budget.AccountBytes), (budget.Mappings, budget.Bytes));
    }

    [Fact]
    public void Of_a_file_that_the_budget_has_no_room_for_a_piece_is_mapped()
    {
        var budget = new MappingBudget(100, 1UL << 30);
        using var account = new MappingAccount(null, budget);
        using var file = MemoryFile.Create("virtbus-test", 1UL << 33);
        using var memory = Map(account, file, (1UL << 32) + Page, Page);
        using var near = Map(account, file, 1UL << 32, Page);
        Assert.Equal(1, budget.Mappings);
        memory.Write(0, [9]);
        Assert.Equal(9, ReadByte(memory, 0));
        Assert.Equal(near.Address + (nint)Page, memory.Address);
    }

    [Fact]
    public void Huge_file_is_mapped_in_pieces_that_are_shared()
    {
        using var file = MemoryFile.Create("virtbus-test", 6 * MappedFiles.MaxWindow);
        var maps = Enumerable.Range(0, 2000).Select(i => Map(_account, file, (ulong)(i % 6) * MappedFiles.MaxWindow + ((ulong)i * Page), Page)).ToList();
        Assert.Equal(6, _budget.Mappings);
        // One that lies in no piece has its own.
        maps.Add(Map(_account, file, MappedFiles.MaxWindow - Page, 2 * Page));
        Assert.Equal(7, _budget.Mappings);
        maps.ForEach(map => map.Dispose());
    }

    [Fact]
    public void File_of_huge_pages_is_mapped_as_long_as_it_is_and_no_longer()
    {
        // No page is touched, so the host need not have any.
        using var file = new FileDescriptor(Libc.memfd_create("virtbus-test", Libc.MFD_CLOEXEC | HugePages));
        Assert.SkipWhen(file.IsInvalid, "the kernel has no huge pages");
        Assert.True(file.TryGetStatus(out var status));
        ulong huge = status.BlockSize;
        Assert.True(huge > Page);
        using var other = new MappingAccount(null, _budget);
        var maps = new List<HostMemory>();
        for (var i = 1ul; i <= 8; i++)
        {
            Assert.Equal(0, Libc.ftruncate(file, (long)(i * huge)));
            maps.Add(Map(_account, file, ((i - 1) * huge) + Page, Page));
            maps.Add(Map(_account, file, (i - 1) * huge, huge));
            Assert.True(file.TryGetStatus(out status));
            Assert.Equal(i * huge, status.Size);
        }

        Assert.Equal((8, 8 * huge), (_budget.Mappings, _budget.Bytes));
        // Nothing says when the file was made.
        Assert.Equal(0, status.Born);
        maps.Add(Map(other, file, 0, Page));
        Assert.Equal(9, _budget.Mappings);
        maps.ForEach(map => map.Dispose());
    }

    [Fact]
    public void All_who_share_a_mapping_are_told_of_its_loss_and_who_comes_later_gets_another_one()
    {
        Assert.SkipUnless(Mapping.IsGuardSupported, "no guard on this architecture: shrinking ends the process");
        int[] told = [0, 0];
        using var first = new MappingAccount(() => Interlocked.Increment(ref told[0]), _budget);
        using var second = new MappingAccount(() => Interlocked.Increment(ref told[1]), _budget);
        using var file = MemoryFile.Create("virtbus-test", 4 * Page, sealedSize: false);
        using var one = Map(first, file, 0, Page);
        using var two = Map(second, file, 2 * Page, Page);
        using var three = Map(second, file, 3 * Page, Page);
        Assert.Equal(0, Libc.ftruncate(file, 0));
        Assert.Equal(0, ReadByte(one, 0));
        Deadline.Until(() => Volatile.Read(ref told[0]) != 0 && Volatile.Read(ref told[1]) != 0, "word of the loss");
        Assert.Equal(0, Libc.ftruncate(file, (long)(4 * Page)));
        using var late = Map(first, file, 0, Page);
        Assert.NotEqual(one.Address, late.Address);
        using var witness = Map(_account, file, 0, Page);
        witness.Write(0, [5]);
        Assert.Equal((5, 0), (ReadByte(late, 0), ReadByte(one, 0)));
        Assert.Equal([1, 1], told);
    }

    [Fact]
    public void Number_of_a_file_that_is_used_again_is_another_file()
    {
        using var file = MemoryFile.Create("virtbus-test", Page);
        using var other = new MappingAccount(null, _budget);
        Assert.True(file.TryGetStatus(out var status));
        Assert.NotEqual(0, status.Born);
        var files = new List<(MappingAccount Account, FileStatus Status)>
        {
            (_account, status), (other, status with { Born = status.Born + 1 }), (_account, status with { Born = 0 }), (other, status with { Born = 0 }),
        };
        var maps = files.Select(one =>
        {
            Assert.True(_budget.Files.TryTake(one.Account, file, one.Status, (0, Page), Page, writable: true, out var mapped, out _));
            return mapped!;
        }).ToList();
        // Where nothing says when a file was made, accounts share none.
        Assert.Equal(4, maps.Select(map => map.Address).Distinct().Count());
        for (var i = 0; i < maps.Count; i++)
            maps[i].Release(files[i].Account);
    }

    [Fact]
    public void Threads_that_map_and_let_go_of_one_file_at_once_leave_nothing()
    {
        using var file = MemoryFile.Create("virtbus-test", 16 * Page);
        var before = Kernel.Mappings;
        var threads = Enumerable.Range(0, 4).Select(number => new Thread(() =>
        {
            using var account = new MappingAccount(null, _budget);
            for (var i = 0; i < 2000; i++)
            {
                using var memory = Map(account, file, (ulong)((i + number) % 16) * Page, Page);
                memory.Write(0, [1]);
            }
        }) { IsBackground = true }).ToList();
        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => thread.Ends("a thread with 2000 maps"));
        Assert.Equal((before, 0), (Kernel.Mappings, _budget.Mappings));
    }

    private static HostMemory Map(MappingAccount account, FileDescriptor file, ulong offset, ulong size)
    {
        Assert.True(HostMemory.TryMap(account, file, offset, size, DmaAccess.ReadWrite, out var memory, out var fault), fault.Message);
        return memory!;
    }

    private static bool TryMapNew(MappingAccount account, ulong size, out HostMemory? memory, out Fault fault)
    {
        using var file = MemoryFile.Create("virtbus-test", size);
        return HostMemory.TryMap(account, file, 0, size, DmaAccess.ReadWrite, out memory, out fault);
    }

    // A page of a file each, until no more are taken.
    private static (List<HostMemory> Maps, Fault End) MapAll(MappingAccount account)
    {
        var maps = new List<HostMemory>();
        Fault fault;
        while (TryMapNew(account, Page, out var memory, out fault))
            maps.Add(memory!);
        return (maps, fault);
    }

    private static byte ReadByte(HostMemory memory, ulong offset)
    {
        var bytes = new byte[1];
        memory.Read(offset, bytes);
        return bytes[0];
    }
}
