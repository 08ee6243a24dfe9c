using System.Diagnostics;
using System.Runtime.InteropServices;
using Virtbus.Memory;
using Virtbus.Platform;

namespace Virtbus.Tests.Memory;

public class MappingGuardTests
{
    private const string Child = "VIRTBUS_TEST_BUS_ERROR";
    private const ulong Size = 0x10000;

    private const string Assembly = """
            .intel_syntax noprefix
            movabs r8, 0
            cmp dword ptr [rsi+8], 2
            jne chain
        again:
            mov rax, [rsi+16]
            mov rcx, [r8+16]
            mov r9, [r8+8]
        next:
            sub rcx, 1
            jb chain
            mov r11, [r9+8]
            mov r10, rax
            sub r10, [r9]
            cmp r10, r11
            jb found
            add r9, 32
            jmp next
        found:
            cmp r11, [r9+8]
            jne again
            push rdi
            push rsi
            push rdx
            push r8
            push r9
            mov rdi, [r9]
            mov rsi, r11
            mov edx, 3
            mov r10d, 0x4032
            mov r8, -1
            xor r9d, r9d
            mov eax, 9
            syscall
            pop r9
            pop r8
            cmp rax, [r9]
            jne failed
            mov dword ptr [r9+16], 1
            lock inc dword ptr [r8+24]
            lea rdi, [r8+24]
            mov esi, 129
            mov edx, 1
            mov eax, 202
            syscall
            add rsp, 24
            ret
        failed:
            pop rdx
            pop rsi
            pop rdi
        chain:
            jmp [r8]

        """;

    [Fact]
    public void Code_of_the_handler_is_what_the_assembler_makes_of_it()
    {
        SkipUnlessSupported();
        var folder = Directory.CreateTempSubdirectory("virtbus-as");
        try
        {
            var file = Path.Combine(folder.FullName, "handler");
            File.WriteAllText(file + ".s", Assembly);
            if (!TryRun("as", file + ".s", "-o", file + ".o") || !TryRun("objcopy", "-O", "binary", "-j", ".text", file + ".o", file))
                Assert.Skip("no assembler ('as', 'objcopy') on this host: the handler's code is not checked");
            Assert.Equal(Convert.ToHexString(File.ReadAllBytes(file)), Convert.ToHexString(MappingGuard.Code));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [InlineData(0, true)]
    [InlineData(0, false)]
    [InlineData(0x8000, true)]
    public void Access_to_a_file_that_was_cut_meets_zeros_and_its_owner_is_told_once(long left, bool read)
    {
        SkipUnlessSupported();
        var told = 0;
        using var kept = Map(out var keptFile, () => Interlocked.Increment(ref told));
        using var memory = Map(out var file, () => Interlocked.Increment(ref told));
        using (keptFile)
        using (file)
        {
            kept.Write(Size - 8, [1]);
            memory.Write(Size - 8, [2]);
            Assert.Equal(0, Libc.ftruncate(file, left));
            var bytes = new byte[16];
            if (read)
                memory.Read(Size - 16, bytes);
            else
                memory.Write(0, bytes);
            Assert.Equal(new byte[16], bytes);
            Deadline.Until(() => Volatile.Read(ref told) != 0, "word of the loss");
            memory.Write(0, [1, 2, 3]);
            memory.Read(0, bytes);
            Assert.Equal([1, 2, 3], bytes[..3]);
            kept.Read(Size - 16, bytes);
            Assert.Equal((1, 1), (bytes[8], told));
        }
    }

    [Fact]
    public void Threads_that_meet_it_at_once_all_go_on()
    {
        SkipUnlessSupported();
        for (var round = 0; round < 50; round++)
        {
            var told = 0;
            using var memory = Map(out var file, () => Interlocked.Increment(ref told));
            using (file)
            {
                using var start = new Barrier(4);
                var threads = Enumerable.Range(0, 4).Select(number => new Thread(() =>
                {
                    Assert.True(start.SignalAndWait(Deadline.Limit), "the other threads do not come");
                    memory.Write((ulong)number * 0x4000, new byte[0x4000]);
                }) { IsBackground = true }).ToList();
                Assert.Equal(0, Libc.ftruncate(file, 0));
                threads.ForEach(thread => thread.Start());
                threads.ForEach(thread => thread.Ends("a thread that writes to what is gone"));
                Deadline.Until(() => Volatile.Read(ref told) != 0, "word of the loss");
            }

            Assert.Equal(1, told);
        }
    }

    [Fact]
    public void Mapping_that_is_gone_is_guarded_no_more_and_its_place_is_used_again()
    {
        SkipUnlessSupported();
        // More than a table would have if none were given back.
        for (var round = 0; round < 1_100_000; round++)
        {
            Assert.True(MappingGuard.TryAdd(1, 1, () => { }, out var number));
            MappingGuard.Remove(number);
        }
    }

    [Fact]
    public async Task Other_bus_errors_end_the_process_as_before()
    {
        SkipUnlessSupported();
        if (Environment.GetEnvironmentVariable(Child) is not null)
        {
            using var guarded = Map(out var one, () => { });
            using var other = Map(out var file, null);
            Assert.Equal(0, Libc.ftruncate(file, 0));
            other.Read(0, new byte[8]);
            Environment.Exit(0);
        }

        // The host of this very run: the program of the tests, or dotnet with its assembly.
        var host = Environment.ProcessPath!;
        string[] tests = Path.GetFileName(host) == "dotnet" ? [typeof(MappingGuardTests).Assembly.Location] : [];
        var start = new ProcessStartInfo(host, [.. tests, "-method", $"{typeof(MappingGuardTests)}.{nameof(Other_bus_errors_end_the_process_as_before)}"])
        {
            UseShellExecute = false,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment = { [Child] = "1", ["DOTNET_DbgEnableMiniDump"] = "0" },
        };
        using var process = Process.Start(start)!;
        var output = process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var error = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.EndsAsync();
        // Killed by SIGBUS, or by the runtime's own abort.
        Assert.True(process.ExitCode is 128 + 7 or 128 + 6, $"exit code {process.ExitCode}: {await output} {error}");
    }

    private static void SkipUnlessSupported()
    {
        if (!MappingGuard.IsSupported)
            Assert.Skip($"no guard on {RuntimeInformation.ProcessArchitecture}");
    }

    private static HostMemory Map(out FileDescriptor file, Action? lost)
    {
        file = MemoryFile.Create("virtbus-test", Size, sealedSize: false);
        HostMemory? memory;
        Fault fault;
        var mapped = lost is null
            ? HostMemory.TryMap(file, 0, Size, DmaAccess.ReadWrite, out memory, out fault)
            : HostMemory.TryMap(new MappingAccount(lost), file, 0, Size, DmaAccess.ReadWrite, out memory, out fault);
        Assert.True(mapped, fault.Message);
        return memory!;
    }

    private static bool TryRun(string program, params string[] arguments)
    {
        try
        {
            using var process = Process.Start(program, arguments);
            process.Ends();
            return process.ExitCode == 0;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return false;
        }
    }
}
