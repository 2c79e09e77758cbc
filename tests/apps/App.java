import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.nio.file.*; import java.io.*;
public class App {
  static int fib(int n){ return n<2?n:fib(n-1)+fib(n-2); }
  public static void main(String[] a) throws Exception {
    if (fib(32)!=2178309) throw new Error("jit");
    ExecutorService p=Executors.newFixedThreadPool(16); LongAdder sum=new LongAdder(); List<Future<?>> fs=new ArrayList<>();
    for(int i=0;i<1000;i++){ final int n=i; fs.add(p.submit(()->{ sum.add(n); synchronized(App.class){} })); }
    for(Future<?> f:fs) f.get(); p.shutdown(); if(!p.awaitTermination(10,TimeUnit.SECONDS)||sum.sum()!=499500) throw new Error("pool");
    Map<Integer,byte[]> m=new HashMap<>(); Random r=new Random(1);
    for(int i=0;i<200000;i++){ m.put(r.nextInt(2000), new byte[r.nextInt(4096)]); } System.gc();
    Path d=Files.createTempDirectory("j"); for(int i=0;i<100;i++) Files.writeString(d.resolve("f"+i),"x".repeat(i));
    try(var s=Files.list(d)){ if(s.count()!=100) throw new Error("list"); }
    for(int i=0;i<100;i++) Files.delete(d.resolve("f"+i)); Files.delete(d);
    Process q=new ProcessBuilder("sh","-c","cat; exit 3").start(); q.getOutputStream().write("abc".getBytes()); q.getOutputStream().close();
    if(!new String(q.getInputStream().readAllBytes()).equals("abc")||q.waitFor()!=3) throw new Error("process");
    Thread t=new Thread(()->{ try{ Thread.sleep(100000);}catch(InterruptedException e){ System.out.println("interrupted"); } }); t.start(); Thread.sleep(50); t.interrupt(); t.join();
    try { int[] x=null; x[0]=1; throw new Error("npe"); } catch(NullPointerException e){}
    try { recurse(0); throw new Error("so"); } catch(StackOverflowError e){}
    System.out.println(Runtime.getRuntime().availableProcessors()+" cpus, max "+(Runtime.getRuntime().maxMemory()>>20)+" MiB, pid alive "+ProcessHandle.current().isAlive()+" "+ProcessHandle.current().info().command().isPresent());
    System.out.println("java ok");
  }
  static int recurse(int n){ return recurse(n+1)+1; }
}
